"""New labels for rows of least squares: the fewest, within a box, that change on which side of a bar a number is."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..influence.unrolled import Answers
from ..linear.whitened import is_least_squares
from ..objective import LinearModel
from ..types import Tensor
from .certificates import ROUNDING
from .conclusions import Conclusion
from .removals import Question


class Relabelling(NamedTuple):
    """How many units no new labels of which change a conclusion, and the fewest that do, with the labels that do it.

    `units` are [] where no labels in the box do it, or none of as few units as were allowed, as a refit confirms: that
    is `problem`, the model with the new `labels` of `rows`. `limit` says in a sentence what went wrong, or "".
    """

    certified: int
    units: list[int]
    rows: Int[Tensor, " k"]
    labels: Float[Tensor, " k"]
    problem: LinearModel
    limit: str = ""


def fewest_relabelled(
    problem: LinearModel, question: Question, box: tuple[float, float], most: int
) -> Relabelling:
    """The fewest units whose rows, with labels anywhere in a box, change a conclusion: exact, by sorting, (33).

    Args:
        problem: least squares.
        question: what is asked of it, about the estimate alone.
        box: the lowest and the highest label; a label outside may stay or move into it.
        most: the largest number of units.
    """
    ends = torch.tensor(box, dtype=torch.float64)
    own = problem.y.double().reshape(problem.n, -1)[:, :1]  # an offset stands beside the label
    slope = question.side * problem.weights.sqrt() * (question.whole.rows @ question.direction)
    drops, end = (slope[:, None] * (own - ends)).max(1)
    drops = drops.clamp(min=0)
    each, order = torch.stack([drops[rows].sum() for rows in question.units]).sort(descending=True)
    left = float(question.margin(question.moments())) - (1 + ROUNDING) * each.cumsum(0)
    certified, limit = int((left > 0).sum()), ""
    # Where a sum meets the bar to rounding, the refit decides, and one unit more does it in any case.
    for count in range(certified + 1, min(certified + 2, most, int((each > 0).sum())) + 1):
        units = order[:count].tolist()
        rows = torch.cat([question.units[g] for g in units])
        rows = rows[drops[rows] > 0].sort().values
        labels, targets = ends[end[rows]], problem.y[rows].clone()
        targets.view(len(rows), -1)[:, 0] = labels
        changed = problem.relabelled(rows, targets)
        there = Question.of(changed, question.asked, question.units, question.side)
        if float(there.margin(there.moments())) <= 0:
            return Relabelling(certified, units, rows, labels, changed)
        limit = "Labels were found that a refit did not confirm, by rounding."
    none = torch.empty(0, dtype=torch.int64)
    return Relabelling(certified, [], none, none.double(), problem, limit)


def relabelled_model(influence: Answers, written: LinearModel | None, asked: Conclusion) -> LinearModel:
    """The least squares whose labels change, its effects written out.

    Args:
        influence: of the model.
        written: the model as a linear one, None where it is none.
        asked: the conclusion.

    Raises:
        TypeError: for other models.
        ValueError: for tests, whose standard error moves with the labels.
    """
    if asked.uses_error:
        raise ValueError(
            "new labels move the standard error too, which no certificate knows: ask about the sign, without "
            "significance, or leave relabel out"
        )
    exact = written is not None and is_least_squares(written)
    if written is None or not exact or written.penalty.slope is not None:
        what = type(influence.problem if written is None else written.loss).__name__
        raise TypeError(
            "relabel is for least squares with one output (OLS, WLS, ridge, absorbed effects that can be written out), "
            f"without an l1 penalty, where labels move the coefficients in proportion, not for {what}: leave relabel "
            "out to ask about removals, and for one decision of a classifier ask flip_set(relabel=True)"
        )
    return written


def check_box(box: tuple[float | int, float | int]) -> tuple[float, float]:
    """The lowest and the highest label; raises ValueError where they are none."""
    low, high = map(float, box)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"relabel must be the lowest and the highest label, as (0, 1), got {box}")
    return low, high
