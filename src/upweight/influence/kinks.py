"""Rows whose removal leads over a kink of the objective, which no Newton step sees: the estimator is fitted again."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InfluenceError
from ..estimators.refitting import KINKED, OWN
from ..measures import Measure
from ..objective import Objective
from ..runtime.progress import track
from .settling import Changes

REFITS = 100
"""Rows without which the estimator is fitted again; of more those with the largest effects by Newton steps."""


def over_kinks(problem: Objective, test: Any, measure: Measure | None, found: Changes) -> Changes:
    """Changes by Newton steps, but by refits of the user's estimator where an l1 penalty would leave other columns.

    Such rows that are not refitted, because there are too many, or because `test` are not rows as the user has them,
    count as not settled at all. A refit that leaves nothing to ask about gives NaN.

    Args:
        problem: the model.
        test: m test examples.
        measure: what is asked about, None for the loss.
        found: the changes by Newton steps.
    """
    rows, refit = problem.cache.get(KINKED), problem.cache.get(OWN)
    if rows is None or not len(rows):
        return found
    changes, left = found.changes.clone(), found.left.clone()
    left[:, rows] = 1.0
    if refit is not None and hasattr(test[0], "__getitem__"):
        largest = changes[:, rows].abs().nan_to_num(0).amax(0).argsort(descending=True)[:REFITS]
        before, everything = problem.evaluate(test, measure), torch.arange(problem.n)
        for row in track(rows[largest].tolist(), "refitting over kinks", len(largest)):
            try:
                changes[:, row] = refit(everything[everything != row]).evaluate(test, measure) - before
            except (ValueError, InfluenceError):  # all coefficients are zero without it
                changes[:, row] = torch.nan
            left[:, row] = 0.0
    return found._replace(changes=changes, left=left)
