"""Rows whose removal leads over a kink of the objective, which no Newton step sees: the estimator is fitted again."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int

from ..errors import InfluenceError
from ..estimators.refitting import KINKED, OWN, STILL, Refitting
from ..measures import Measure
from ..objective import Objective
from ..runtime.progress import track
from ..types import Tensor
from .settling import Changes


class Kinks:
    """The changes of test measures by refits of the user's estimator, where an l1 penalty would leave other columns.

    So it is of all rows where something is held that training finds anew, as the C of nu machines. Of several rows
    together nobody knows whether it would: such sets are refitted. What is not, because there is too much, or because
    `test` are not rows as the user has them, counts as not settled at all. A refit that leaves nothing to ask about
    gives NaN.

    Args:
        problem: the model.
        asked: m test examples as the user has them, and the measure, None for the loss.
        found: the changes by Newton steps, of which copies are changed.
        sets: the training rows of each column of `found`; None: each row alone.
    """

    def __init__(
        self,
        problem: Objective,
        asked: tuple[Any, Measure | None],
        found: Changes,
        sets: list[Tensor] | None = None,
    ) -> None:
        rows = problem.cache.get(KINKED)
        alone = set() if rows is None else set(torch.as_tensor(rows).tolist())
        self.sets = list(torch.arange(problem.n).split(1)) if sets is None else sets
        over = [rows is not None and (len(own) > 1 or int(own[0]) in alone) for own in self.sets]
        self.over = torch.tensor(over)
        self.problem, self.test, self.measure = problem, *asked
        self.refit: Refitting | None = problem.cache.get(OWN)
        still = set(torch.as_tensor(problem.cache.get(STILL, ())).tolist())
        nothing = torch.tensor([still.issuperset(own.tolist()) for own in self.sets])
        self.over &= ~nothing
        self.marked = Changes(*(of_all.clone() for of_all in found))
        self.marked.left[:, self.over] = 1.0
        for of_all in (self.marked.changes, self.marked.left):
            of_all[:, nothing] = 0.0
        self.known: dict[int, Tensor] = {}
        self._before: Tensor | None = None

    @property
    def can_be_refitted(self) -> bool:
        """Whether the estimator can be fitted again, and asked about these test examples."""
        return bool(self.over.any()) and self.refit is not None and hasattr(self.test[0], "__getitem__")

    def changes(self, index: Int[Tensor, " k"]) -> Changes:
        """The changes (m, k) of some columns, by refits of those over a kink."""
        found = Changes(*(of_all[:, index].clone() for of_all in self.marked))
        places = self.over[index].nonzero()[:, 0].tolist()
        for place in track(places, "refitting over kinks", len(places)):
            found.changes[:, place] = self._refitted(int(index[place]))
            found.left[:, place] = 0.0
        return found

    def _refitted(self, column: int) -> Tensor:
        if column not in self.known:
            assert self.refit is not None
            kept = torch.ones(self.problem.n, dtype=torch.bool)
            if self._before is None:  # `problem` may have been trained further than the estimator
                self._before = self.refit(kept.nonzero()[:, 0]).evaluate(self.test, self.measure)
            kept[self.sets[column]] = False
            try:
                there = self.refit(kept.nonzero()[:, 0]).evaluate(self.test, self.measure)
                self.known[column] = there - self._before
            except (ValueError, InfluenceError):  # all coefficients are zero without it
                self.known[column] = torch.full_like(self._before, torch.nan)
        return self.known[column]
