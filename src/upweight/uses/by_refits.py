"""A search for the fewest rows that change a conclusion that no certificate is known for: each step a refit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float

from ..runtime.progress import gauge, track
from ..types import Tensor
from .certificates import Certificate
from .conclusions import Conclusion
from .general_fit import GeneralFit
from .standard_errors import Errors
from .weighted_fit import Told, WeightedFit

TRIED = 8
"""Units that are refitted without, each by itself, before the best of them is taken, near the end of the search."""


@dataclass(frozen=True, eq=False)
class Tested:
    """A conclusion about a regression as a function of the rows' weights.

    Args:
        fit: the regression.
        asked: the conclusion.
        gradient: the gradient of the number that it is about, in the coefficients.
        bar: what that is held against.
        side: on which side of the bar it is, 1 or -1.
        units: the rows of each unit.
    """

    fit: WeightedFit | GeneralFit
    asked: Conclusion
    gradient: Float[Tensor, " k"]
    bar: float
    side: float
    units: Sequence[Tensor]

    def told(self, gone: Sequence[int] = ()) -> Told:
        """The number that it is about and its error without some units, by a refit; NaN where it is not determined."""
        return self.fit.told(self.gradient, self._left(gone), self.asked.errors or Errors())

    def margin(self, gone: Sequence[int] = ()) -> float:
        """How far it is from not holding without some units, by a refit; infinite where it is not determined."""
        found = float(self._margin(self._left(gone)))
        return found if found == found else float("inf")

    def slopes(self, gone: Sequence[int] = ()) -> Float[Tensor, " u"]:
        """What the margin loses to first order by each unit more; minus infinity of those that are gone."""
        with torch.enable_grad():
            omega = self._left(gone).requires_grad_()
            slope = torch.autograd.grad(self._margin(omega), omega)[0].nan_to_num(0.0)
        each = torch.stack([slope[rows].sum() for rows in self.units])
        each[list(gone)] = -torch.inf
        return each

    @property
    def first_order(self) -> int | None:
        """How many units sums of derivatives need, each taken with all rows; None: all do not do."""
        left = self.margin() - self.slopes().sort(descending=True).values.clamp(min=0).cumsum(0)
        reached = (left <= 0).nonzero()
        return int(reached[0]) + 1 if len(reached) else None

    def fewest(self, most: int) -> list[int] | None:
        """Units without which it does not hold, as few as were found; None where the search finds none.

        Greedy by derivatives from the refit without those before, some at once while many are needed, the last ones by
        refits without each of a few; then each member that is not needed is put back.

        Args:
            most: the largest set.
        """
        chosen: list[int] = []
        start = self.margin()
        with gauge("searching rows to remove, with refits") as reached:
            while (now := self.margin(chosen)) > 0:
                reached(1 - now / start)
                drops, order = self.slopes(chosen).sort(descending=True)
                gain = int((drops > 0).sum())
                if not gain or len(chosen) >= most or now == float("inf"):
                    return None
                needed = int((drops[:gain].cumsum(0) < now).sum()) + 1
                take = max(1, min(needed // 4, gain, most - len(chosen)))
                first = order[:take].tolist()
                if take == 1:
                    tried = order[: min(TRIED, gain)].tolist()
                    first = [min(tried, key=lambda unit: self.margin([*chosen, unit]))]
                chosen += first
        for unit in track(list(chosen[:-1]), "putting back what is not needed", len(chosen) - 1):
            fewer = [other for other in chosen if other != unit]
            chosen = fewer if self.margin(fewer) <= 0 else chosen
        return chosen

    def proof(self, names: pd.Index, most: int, why: str) -> Certificate:
        """What is proven of it: nothing.

        Args:
            names: what the units are called.
            most: how many units are asked about.
            why: why nothing is.
        """
        return Certificate(0, why)

    def _left(self, gone: Sequence[int]) -> Float[Tensor, " n"]:
        omega = torch.ones(len(self.fit.y), dtype=torch.float64)
        for g in gone:
            omega[self.units[g]] = 0.0
        return omega

    def _margin(self, omega: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        told = self.fit.told(self.gradient, omega, self.asked.errors or Errors())
        return self.asked.margin(told.seen_from(self.bar, self.side).moments)
