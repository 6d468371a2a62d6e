"""What removals do to a model that was trained in stages: its parameters computed anew without the rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from ..capabilities import Stages
from ..measures import Measure, name_of
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor
from .forecasts import HELD
from .removal import Removal
from .scores import Scores
from .shown import sides

AFFORDED = 1 << 31
"""Meetings of a row and a stage that the effects which are shown of a test row may cost: some ten seconds."""
SAID = (
    "Effects of the {} rows that are shown are those of leaf values computed anew without the row, the splits held "
    "fixed; those of the others are of first order (Eq. 2)."
)


def changes_without(
    problem: Objective, stages: Stages, sets: list[Tensor], test: Any, measure: Measure | None
) -> Float[Tensor, "m g"]:
    """The change of each test measure as each set of training rows is removed, by stages computed anew.

    Args:
        problem: the model.
        stages: what computes its parameters.
        sets: the training rows of each of g sets.
        test: m test examples.
        measure: what is asked about, None for the loss.
    """
    model = problem.output_model
    assert model is not None
    read = stages.read(model.prepared(test))
    before = problem.evaluate(read, measure)
    each = [
        problem.evaluate(read, measure, stages.recomputed(rows)) - before
        for rows in track(sets, "removing", len(sets))
    ]
    return torch.stack(each, dim=1)


def with_recomputed(
    found: Removal, problem: Objective, sets: list[Tensor], asked: tuple[Any, Measure | None]
) -> Removal:
    """A first-order prediction with the changes by stages computed anew beside it, for models that have stages.

    Args:
        found: of first order.
        problem: the model.
        sets: the training rows of each of g sets.
        asked: m test examples and the measure, None for the loss.
    """
    if problem.stages is None:
        return found
    return replace(found, recomputed=changes_without(problem, problem.stages, sets, *asked))


def counted_anew(
    problem: Objective,
    stages: Stages,
    groups: tuple[pd.Index, list[Tensor]],
    asked: tuple[Any, Measure | None],
) -> Removal:
    """The changes of what has no derivative, by stages computed anew; those of first order are NaN.

    Args:
        problem: the model.
        stages: what computes its parameters.
        groups: the names of the sets (g,) and the training rows of each.
        asked: m test examples or a reference set, and the measure; None for the loss.
    """
    names, sets = groups
    changes = changes_without(problem, stages, sets, *asked)
    sizes = torch.tensor([len(rows) for rows in sets])
    return Removal(
        names, sizes, torch.full_like(changes, torch.nan), recomputed=changes, measure=name_of(asked[1])
    )


def derivable(stages: Stages | None, measure: Measure | None) -> Measure | None:
    """The measure; refuse to ask stages of every row what has no derivative: each would need them computed anew.

    Raises ValueError, which says what can be asked.
    """
    if stages is not None and measure is not None and not measure.smooth:
        raise ValueError(
            f"{measure.name} has no derivative, so that trees tell nothing of it row by row: ask what it does to "
            "remove a group of rows, influence.of_removal (on the command line: remove --where)"
        )
    return measure


def with_shown(
    scores: Scores, problem: Objective, stages: Stages, asked: tuple[Any, Measure | None], top: int, rows: Any
) -> Scores:
    """First-order scores with the effects that are shown computed anew, as far as that can be afforded.

    Args:
        scores: of all training rows.
        problem: the model.
        stages: what computes its parameters.
        asked: m test examples and the measure, None for the loss.
        top: rows of either sign that are shown of each test example.
        rows: rows that are shown whatever their effect, or None.
    """
    effect = scores.removal_effect().clone()
    shown = torch.zeros(effect.shape, dtype=torch.bool)
    for own, line in zip(shown, effect, strict=True):  # what is shown of a test row is not up to the others
        own[torch.cat(sides(line, top))] = True
    if rows is not None:
        shown[:, torch.as_tensor(rows)] = True
    if int(shown.sum(1).max()) * stages.cost > AFFORDED:
        return replace(scores, said=(HELD,))
    index = shown.any(0).nonzero()[:, 0]
    anew = changes_without(problem, stages, list(index.split(1)), *asked)
    effect[:, index] = torch.where(shown[:, index], anew, effect[:, index])
    return replace(scores, changes=effect, said=(SAID.format(len(index)),))
