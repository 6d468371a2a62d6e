"""What an effect is made of: parts in its own unit, one for each column, that add up to it."""

from __future__ import annotations

import pandas as pd
import torch
from jaxtyping import Float

from ..objective import LinearModel, Objective
from ..types import Tensor
from .labels import feature_name

INTERCEPT, PENALTY, BEND = "the intercept", "the penalty", "the bend of the measure"
FOLLOWS = "what follows: class weights, scales"
"""The parts of no column: through the intercept, of the penalty that a removed row takes along, what the curvature of
the measure adds where it is evaluated at the shifted parameters, and what Newton steps after the first, and what
follows: class weights of other rows, scales of columns."""
START, ELSEWHERE = "the start", "leaves that they do not share"
"""Of trees: what goes through the scores that boosting starts from, and through other rows."""
SHARE = "the share of the class"
"""Of classifiers by moments: what goes through how many rows a class has."""
ONES = ("Intercept", "const", "(Intercept)")
"""What formulas and statsmodels call their column of ones: an intercept, of which no reader learns anything."""
NO_COLUMN = (INTERCEPT, *ONES, PENALTY, BEND, FOLLOWS, START, ELSEWHERE, SHARE)
NAMED = 3
"""Columns that are named for each training row."""


def parts_of_effects(
    model: LinearModel,
    rows: Tensor,
    solved: Float[Tensor, "1 p"],
    pull: Float[Tensor, "k c"] | None = None,
) -> Float[Tensor, "k parts"]:
    """The removal effect of training rows, taken apart by the columns of X: each line adds up to the row's effect.

    The gradient of row i in the coefficients of column j is x_ij times its residuals r_i, so that its effect s . g_i /
    n with s = H^-1 grad(measure) is a sum over columns of x_ij (s_j . r_i) / n: what the row did *through the
    coefficient of that column*. It is 0 where the cell is 0, which is the mean of a scaled column. What is left are the
    intercept's part, and the penalty's where a removed row takes its share along (`keep="mean"`).

    Args:
        model: the linear model.
        rows: numbers of k training rows.
        solved: H^-1 times the gradient of the measure, (1, p).
        pull: the rows' residuals with their leverage accounted for (`RowSteps.pull`), (k, c); None: as they are.

    Returns:
        The parts (k, d + 2) in the measure's unit, positive = it would rise by the removal: d columns, intercept and
        penalty.
    """
    x = model.train_batch(rows)[0].block(slice(None), torch.float64).dense()
    r = (model.derivatives().r[rows] if pull is None else pull) / model.n
    s = model.layout.unpack(solved[0])
    columns = x * (r @ s["weight"])
    intercept = r @ s["bias"] if model.has_intercept else r.new_zeros(len(r))
    penalty = (model.folded_penalty @ solved[0] / model.n).expand(len(r))
    return torch.cat([columns, intercept[:, None], penalty[:, None]], dim=1)


def part_names(model: LinearModel) -> list[str]:
    """What the parts are called: the columns of X, the intercept, the penalty."""
    return [*(feature_name(model, j) for j in range(model.d)), INTERCEPT, PENALTY]


def coefficient_names(problem: Objective) -> list[str]:
    """What the parameters of a model of one output are called: columns, the intercept, the dispersion of counts."""
    if problem.linear is not None:
        return part_names(problem.linear)[: problem.p]
    columns = problem.p - len(problem.layout.names) + 1
    return [*list(problem.feature_names or map(str, range(columns)))[:columns], *problem.layout.names[1:]]


def in_words(parts: pd.Series, count: int = NAMED) -> str:
    """The columns with the largest parts, and the rest: other columns, the intercept, the penalty.

    Parts of 0 are left out.

    >>> in_words(pd.Series({"age": 0.0012, "dose": -0.0003, "noise": 0.0, "the intercept": 0.01}))
    'age (+0.0012), dose (-0.0003), the rest (+0.01)'
    """
    columns = parts[(parts != 0) & ~parts.index.isin(NO_COLUMN)]
    shown = columns.iloc[columns.abs().argsort(kind="stable")[::-1]].iloc[:count]
    words = [f"{name} ({value:+.3g})" for name, value in shown.items()]
    if (parts != 0).sum() > len(shown):
        words.append(f"the rest ({parts.sum() - shown.sum():+.3g})")
    return ", ".join(words)
