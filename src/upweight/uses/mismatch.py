"""Which group of training rows drives the errors of a slice of the test data (Sec. 5.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from ..data.row_sets import as_sets
from ..influence.stationarity import finishing
from ..influence.unrolled import Answers
from ..measures import Measure
from ..objective import LinearModel
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .labels import mean_loss
from .parts import part_names, parts_of_effects

FEATURES = 10
"""Columns that are named for the group that harms most."""
ROWS = 1024
"""Rows of the group that are taken apart at a time."""
HOW = {
    "first order": "of first order",
    "newton": "by a Newton step without the group",
    "recomputed": "by leaf values computed anew without the group, the splits held fixed",
}
"""What each kind of prediction is, in a few words."""
PART = "part of first order"
"""The heading of the columns' parts, which add up to the group's effect of first order."""


@dataclass(frozen=True, eq=False)
class Mismatch:
    """What each group of training rows does to a slice of the test data.

    `groups` has a line per group, the one that harms the slice most first: its size, the predicted change of the
    slice's mean loss if it were removed (negative = it harms), in all and per row. `features` are, for that first
    group, the parts of its effect of first order by columns, in the same unit: they add up to it, with a last line for
    the rest (empty for models that are not linear).
    """

    groups: pd.DataFrame
    features: pd.DataFrame
    drift: str = ""
    """One sentence on how far the model is from where training would end, beside these effects."""
    how: str = "of first order"
    """How the effects were found, in a few words."""

    def __repr__(self) -> str:
        head, responsible = self._words()
        features = self.features.to_string(index=False)
        return plain(f"{head}\n{self.groups.head(10).to_string()}\n{self.drift}\n{responsible}\n{features}")

    def _repr_html_(self) -> str:
        head, responsible = self._words()
        return as_html(head, self.groups.head(10), self.drift, responsible, self.features)

    def _words(self) -> tuple[str, str]:
        return (
            "Predicted change of the slice's mean loss if a group of rows were removed (negative = it harms), "
            + self.how,
            f"Columns responsible in group {self.groups.index[0]!r}: parts that add up to its effect of first order",
        )


def mismatch(influence: Answers, test: Any, by: Any) -> Mismatch:
    """The effect of each group of training rows on the mean loss of a slice of test rows (Sec. 5.3).

    Effects are those of Newton steps without the group for linear models (B2), of leaf values computed anew without the
    group for trees, of first order for others.

    Args:
        influence: of the model.
        test: the slice, as the problem takes batches.
        by: the groups as `Influence.of_removal` takes them: a column (n,) of labels, where rows that have none are the
            group "(missing)", or a mapping of names to rows.

    Raises:
        ValueError: for groups that are empty, unknown or all training rows.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(4, 1), torch.tensor([1.0, 1.0, 1.0, 9.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.01))
    >>> mismatch(influence, (X[:1], y[:1]), by=["a", "a", "b", "c"]).groups.index[0]
    'c'
    """
    problem, model, measure = influence.problem, influence.problem.linear, None
    if model is not None:
        test, measure = model.prepared(test), mean_loss(model)
    found = influence.of_removal(by, test, measure=measure)
    effect = found.best.nanmean(0)  # without rows asked about whose leaf a group's removal empties
    groups = pd.DataFrame(
        {
            "size": found.sizes.numpy(),
            "effect of removal": effect.numpy(),
            "per row": (effect / found.sizes).numpy(),
            "first order": found.first_order.mean(0).numpy(),
        },
        index=found.groups,
    ).sort_values("effect of removal", kind="stable")
    drift = (
        ""
        if found.drift is None
        else finishing("mean loss", found.drift.mean()[None], effect[None], found.away)
    )
    sets = as_sets(by, problem.n, problem.train_index)[1]
    worst = sets[int(effect.nan_to_num(torch.inf).argmin())]
    how = HOW[found.named]
    if model is None:
        return Mismatch(groups, pd.DataFrame(columns=["feature", PART]), drift, how)
    return Mismatch(groups, _features(influence, model, worst, test, measure), drift, how)


def _features(
    influence: Answers, model: LinearModel, rows: Tensor, test: Any, measure: Measure | None
) -> pd.DataFrame:
    """The parts of the group's first-order effect by columns, summed over its rows: they add up to it."""
    solved = influence.solve(model.test_gradients(test, measure)).value
    parts = sum(parts_of_effects(model, some, solved).sum(0) for some in rows.split(ROWS))
    table = pd.DataFrame({"feature": part_names(model), PART: parts})
    table = table[table[PART] != 0].sort_values(PART, key=abs, ascending=False, kind="stable")
    shown, left = table.iloc[:FEATURES], table.iloc[FEATURES:]
    if len(left):
        shown = pd.concat([shown, pd.DataFrame({"feature": ["the rest"], PART: [left[PART].sum()]})])
    return shown.reset_index(drop=True)
