"""How many rows have to go before a conclusion of a maximum likelihood fit changes: Cox's model, counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float

from ..errors import NotConvergedError
from ..likelihood import Estimates
from ..runtime.progress import phase, track
from ..types import Tensor
from .certificates import Certificate
from .conclusions import Conclusion, Moments
from .risk_sets import WIDE, RiskSetBounds
from .verdicts import shortest_that
from .weighted_fit import NORMAL, Told

TRIED = 48
"""Units whose Newton step is taken where few are still needed: first order is not right enough to choose among them."""
ENUMERATED = 5000
"""Units that the model is refitted without at most, one by one."""
MOST = 64
"""The largest number of units that a certificate is tried for."""
NUMBERS = 1 << 24
"""Events times rows up to which risk sets are written out: ten such tables are held."""
SWAPPED = 12
"""The largest set that is made smaller by exchanging members, each from the fit without the others."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A conclusion about a fit, and the units that are still in it.

    Args:
        estimates: the fit.
        asked: the conclusion.
        gradient: of the number that it is about.
        bar: what that is held against.
        side: of the bar, 1 or -1.
        units: the rows of each unit in the whole data.
        rows: the rows of the whole data that are in the fit.
    """

    estimates: Estimates
    asked: Conclusion
    gradient: Float[Tensor, " p"]
    bar: float
    side: float
    units: Sequence[Tensor]
    rows: Tensor

    def told(self, gone: Sequence[int] = ()) -> Told:
        """The number that the conclusion is about, and its standard error, without some units."""
        found = (self.without(gone) if len(gone) else self).estimates
        error = (self.gradient @ found.covariance @ self.gradient).sqrt()
        return Told(self.gradient @ found.problem.theta, error, torch.full_like(error, NORMAL))

    def margin(self, gone: Sequence[int] = ()) -> float:
        """How far the conclusion is from not holding without some units; infinite where there is no optimum."""
        try:
            here = self.without(gone) if len(gone) else self
        except NotConvergedError:
            return float("inf")
        found = float(self.asked.margin(self.moments(here.estimates)))
        return found if found == found else float("inf")

    def moments(self, of: Estimates | None = None) -> Moments:
        """The estimate and its variance; the scale of the errors is known."""
        found = of or self.estimates
        estimate = self.side * (self.gradient @ found.problem.theta - self.bar)
        variance = self.gradient @ found.covariance @ self.gradient
        known = torch.full_like(estimate, NORMAL)
        return Moments(estimate, variance, known, known)

    def without(self, gone: Sequence[int]) -> Fitted:
        """The conclusion about the fit without some units. Raises NotConvergedError where there is none."""
        kept = torch.ones(self.estimates.problem.n, dtype=torch.bool)
        kept[self._numbers(gone)] = False
        left = self.estimates.without((~kept).nonzero()[:, 0])
        return Fitted(left, self.asked, self.gradient, self.bar, self.side, self.units, self.rows[kept])

    def slopes(self) -> Float[Tensor, " u"]:
        """What the removal of each unit takes off the margin, by derivatives; -infinity for units that are gone."""
        estimate, variance = self.estimates.first_order(self.gradient)
        now = self.moments()
        with torch.enable_grad():
            leaves = [x.detach().clone().requires_grad_() for x in now[:2]]
            self.asked.margin(Moments(leaves[0], leaves[1], *now[2:])).backward()
        slopes = [0.0 if x.grad is None else float(x.grad) for x in leaves]
        of_rows = torch.full((int(torch.cat(list(self.units)).max()) + 1,), torch.nan, dtype=torch.float64)
        of_rows[self.rows] = -(slopes[0] * self.side * estimate + slopes[1] * variance)
        return torch.stack([of_rows[rows].sum() for rows in self.units]).nan_to_num(-torch.inf)

    def stepped(self, tried: Sequence[int]) -> Float[Tensor, " t"]:
        """The margins without each of some units as well, after a Newton step; infinite where there is none."""
        found = []
        for unit in tried:
            there = self.estimates.stepped(self._numbers([unit]))
            usable = bool(there.problem.theta.isfinite().all())
            found.append(
                self.asked.margin(self.moments(there)) if usable else self.gradient.new_tensor(torch.inf)
            )
        return torch.stack(found).nan_to_num(torch.inf)

    @property
    def first_order(self) -> int | None:
        """How many units sums of single derivatives need; None: all of them do not do."""
        gone = self.slopes().clamp(min=0).sort(descending=True).values.cumsum(0)
        reached = (gone >= self.margin()).nonzero()
        return int(reached[0]) + 1 if len(reached) else None

    def fewest(self, most: int) -> list[int] | None:
        """Units without which the conclusion does not hold, as few as were found; None where the search finds none.

        Greedy: many at once by derivatives while many are needed, then one by one by Newton steps of the most
        promising, each time from the fit without those before. What is found is made smaller by leaving out and
        exchanging members.

        Args:
            most: the largest set.
        """
        here, chosen = self, list[int]()
        while (now := here.margin()) > 0:
            drops, order = here.slopes().sort(descending=True)
            gain = int((drops > 0).sum())
            if not gain or len(chosen) >= most:
                return None
            needed = int((drops[:gain].cumsum(0) < now).sum()) + 1
            take = max(1, min(needed // 2, gain, most - len(chosen)))
            first = order[:take].tolist()
            chosen += first if take > 1 else [_best(here, order[: min(gain, TRIED)].tolist())]
            try:
                here = self.without(chosen)
            except NotConvergedError:
                return None
        count = shortest_that(chosen, lambda beginning: self.margin(beginning) <= 0)
        return _smaller(self, chosen[:count])

    def proof(self, names: pd.Index, most: int, why: str) -> Certificate:
        """How many units no set of which changes the conclusion: one by refits without each, more by risk sets.

        Args:
            names: what the units are called.
            most: how many units are asked about at most.
            why: why no more is known of other models.
        """
        certified = 0
        if len(self.units) <= ENUMERATED:
            for g in track(range(len(self.units)), "refitting without single rows", len(self.units)):
                if not 0 < self.margin([g]) < float("inf"):
                    return Certificate(0, f"Without {names[g]} alone it does not hold, as a refit shows.")
            certified = 1
        bounds = None if self.asked.uses_error else self._bounds()
        if bounds is None:
            words = (
                "single ones are certified by refits" if certified else "there are too many to refit without"
            )
            return Certificate(certified, f"{why}: {words}.")
        with phase(f"proving that few of {len(self.units):,} cannot change it"):
            while certified < min(most, MOST) and bounds.change(certified + 1) < self.margin():
                certified += 1
        return Certificate(
            certified, f"The certificate ends at {certified}: risk sets bound no larger sets tightly enough."
        )

    def _bounds(self) -> RiskSetBounds | None:
        """What risk sets prove of the sign, where these are such that rows simply leave them."""
        estimates, problem = self.estimates, self.estimates.problem
        events = int((problem.likelihood.y[:, 1] > 0).sum())
        if problem.p > WIDE or events * problem.n > NUMBERS or (shares := estimates.risk_shares) is None:
            return None
        return RiskSetBounds(
            shares,
            problem.likelihood.X,
            problem.hessian.matrix() * problem.n,
            (self.side * self.gradient, problem.gradient() * problem.n),
            self.units,
        )

    def _numbers(self, gone: Sequence[int]) -> Tensor:
        """The numbers of units' rows in the fit."""
        return torch.searchsorted(self.rows, torch.cat([self.units[g] for g in gone]).sort().values)


def _best(here: Fitted, tried: list[int]) -> int:
    """The unit that a Newton step says takes most off the margin."""
    return tried[int(here.stepped(tried).argmin())]


def _smaller(whole: Fitted, chosen: list[int]) -> list[int]:
    """A set with fewer units that will do, as long as exchanging members one by one finds one."""
    while 1 < len(chosen) <= SWAPPED:
        members = chosen[:-1]
        for place in range(len(members)):
            others = members[:place] + members[place + 1 :]
            try:
                here = whole.without(others) if others else whole
            except NotConvergedError:
                return chosen
            tried = here.slopes().topk(min(TRIED, len(whole.units))).indices.tolist()
            members[place] = _best(here, [unit for unit in tried if unit not in others])
            if whole.margin(members) <= 0:
                break
        else:
            return chosen
        chosen = members
    return chosen
