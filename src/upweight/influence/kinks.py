"""Rows whose removal leads over a kink of the objective, which no Newton step sees: the estimator is fitted again."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import InfluenceError
from ..estimators.refitting import KINKED, OWN
from ..measures import Measure
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor
from .settling import Changes

REFITS = 100
"""Rows, or sets, without which the estimator is fitted again; of more those of largest effect by Newton steps."""


def over_kinks(
    problem: Objective, test: Any, measure: Measure | None, found: Changes, sets: list[Tensor] | None = None
) -> Changes:
    """Changes by Newton steps, but by refits of the user's estimator where an l1 penalty would leave other columns.

    Of several rows together nobody knows whether it would: such sets are refitted. What is not refitted, because there
    is too much, or because `test` are not rows as the user has them, counts as not settled at all. A refit that leaves
    nothing to ask about gives NaN.

    Args:
        problem: the model.
        test: m test examples.
        measure: what is asked about, None for the loss.
        found: the changes by Newton steps.
        sets: the training rows of each column of `found`; None: each row alone.
    """
    rows, refit = problem.cache.get(KINKED), problem.cache.get(OWN)
    if rows is None:
        return found
    sets = list(torch.arange(problem.n).split(1)) if sets is None else sets
    alone = set(torch.as_tensor(rows).tolist())
    over = torch.tensor([j for j, own in enumerate(sets) if len(own) > 1 or int(own[0]) in alone]).long()
    if not len(over):
        return found
    changes, left = found.changes.clone(), found.left.clone()
    left[:, over] = 1.0
    if refit is not None and hasattr(test[0], "__getitem__"):
        largest = changes[:, over].abs().nan_to_num(0).amax(0).argsort(descending=True)[:REFITS]
        before, kept = problem.evaluate(test, measure), torch.ones(problem.n, dtype=torch.bool)
        for j in track(over[largest].tolist(), "refitting over kinks", len(largest)):
            kept[:] = True
            kept[sets[j]] = False
            try:
                changes[:, j] = refit(kept.nonzero()[:, 0]).evaluate(test, measure) - before
            except (ValueError, InfluenceError):  # all coefficients are zero without it
                changes[:, j] = torch.nan
            left[:, j] = 0.0
    return found._replace(changes=changes, left=left)
