"""Models without rows or groups: what each further removal does, and a search for the fewest that change something.

Of least squares every step is exact, by downdates; of other losses the model is trained again at every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..errors import NotConvergedError
from ..linear.whitened import Whitened, is_least_squares
from ..objective import LinearModel
from ..runtime.progress import gauge, track
from ..types import Tensor
from .conclusions import Conclusion, Moments
from .verdicts import shortest_that

DETERMINED = 1e-9
"""The least share of a direction's curvature that a removal may leave."""
HARMLESS = 1e-7
"""The share of the direction asked about that counts as not touching it."""
STRIDE = 20
"""One more row or group is removed at once for so many that are still needed."""
SWAPS = 1 << 28
"""Operations up to which a set is made smaller by exchanging its members."""


@dataclass(frozen=True, eq=False)
class Question:
    """What is asked: the conclusion, about a direction of the parameters of a problem, and what is removed together.

    `side` is the sign of the estimate less the `bar`. `units` are the rows of each unit. `curved` says that the loss is
    not squared, so that every removal changes the Hessian of the rows left too.
    """

    whole: Whitened
    asked: Conclusion
    gradient: Float[Tensor, " p"]
    bar: float
    side: float
    units: Sequence[Tensor]
    curved: bool

    @classmethod
    def of(
        cls,
        problem: LinearModel,
        asked: Conclusion,
        units: Sequence[Tensor],
        side: float | None = None,
        *,
        reduced: bool = False,
    ) -> Question:
        """The question about a trained problem.

        Args:
            problem: a linear model of one output, at its optimum unless it is least squares.
            asked: the conclusion.
            units: the rows of each unit.
            side: which side of the bar the conclusion is about; None: the one that the estimate is on.
            reduced: whether columns that others explain are left out; else they are refused.
        """
        gradient, bar = asked.gradient(problem)
        whole = Whitened.of(problem, reduced=reduced)
        own = -1.0 if whole.value(gradient) < bar else 1.0
        return cls(whole, asked, gradient, bar, side or own, units, not is_least_squares(problem))

    @property
    def direction(self) -> Float[Tensor, " p"]:
        """The gradient of the number asked about in whitened coordinates, (p,): z of a row is its product with the row.

        Its squared length is the variance of the number, over that of the errors.
        """
        return self.whole.direction(self.gradient)

    def moments(self) -> Moments:
        """The estimate, its variance, the residuals' squares and the degrees of freedom with nothing removed.

        The estimate is turned so that it is positive on the side of the bar that the conclusion is about.
        """
        estimate = torch.tensor(self.side * (self.whole.value(self.gradient) - self.bar), dtype=torch.float64)
        freedom = self.whole.counted.sum() - self.whole.rows.shape[1]
        squares = self.whole.residual.square().sum()
        return Moments(estimate, self.direction.square().sum(), squares, freedom.double())

    def margin(self, now: Moments) -> Tensor:
        """How far the conclusion is from not holding with such moments, in the unit of the estimate.

        It is 0 or negative where the conclusion does not hold; of a stack of moments there is one margin each.
        """
        return self.asked.margin(now)


class Carried(NamedTuple):
    """The directions of the parameters that the rows X (m, p) of a unit carry.

    `left` (s,) is the share of each that the other rows carry, `turn` (m, s) are the directions as combinations of the
    rows, and `lost` (m, t) those of which nothing is left and nothing is asked.
    """

    left: Tensor
    turn: Tensor
    lost: Tensor
    X: Tensor


class Removals:
    """The least squares fit without some units: residuals, leverages and the moments, kept up by downdates.

    In whitened coordinates the inverse Hessian without a set is S = (I - C_T)^-1; removing unit g from there, with X_g
    its rows, changes S by S X_g^T (I - X_g S X_g^T)^-1 X_g S: exact at every step.
    """

    def __init__(self, question: Question) -> None:
        self.question, whole = question, question.whole
        direction = question.direction
        self.S = torch.eye(whole.rows.shape[1], dtype=torch.float64)
        self.r = whole.residual.clone()
        self.z = question.side * (whole.rows @ direction)
        self.h = whole.rows.square().sum(1)
        self.now = question.moments()
        self.free = torch.ones(len(question.units), dtype=torch.bool)
        self.single = all(len(rows) == 1 for rows in question.units)
        self.rows = torch.cat(list(question.units))
        owner = torch.arange(len(question.units)).repeat_interleave(
            torch.tensor(list(map(len, question.units)))
        )
        self.counted = torch.zeros(len(question.units)).double().index_add(0, owner, whole.counted[self.rows])
        self.size = float(direction.norm())
        self.lost: dict[int, Tensor] = {}

    def after(self) -> Moments:
        """The moments after removing each unit as well; NaN where it is gone, or what it leaves is undetermined."""
        question = self.question
        if self.single:
            z, r, left = self.z[self.rows], self.r[self.rows], 1 - self.h[self.rows]
            left = torch.where(self.free & (left > DETERMINED), left, torch.nan)
            changes = torch.stack([-z * r / left, z * z / left, -r * r / left, -self.counted])
        else:
            changes = torch.full((4, len(question.units)), torch.nan, dtype=torch.float64)
            for g in self.free.nonzero()[:, 0].tolist():
                changes[:, g] = self._changes_of(g, self._carried(g))
        return Moments(*(x + d for x, d in zip(self.now, changes, strict=True)))

    def _carried(self, unit: int, sign: float = 1.0) -> Carried:
        """The directions that a unit carries, as it is taken out (sign 1) or put back (-1).

        Directions that the unit carries alone are lost with it where the question does not touch them: removing them
        leaves what is asked determined. Where it does, they are among those with nothing left.
        """
        rows = self.question.units[unit]
        X = self.question.whole.rows[rows]
        if sign < 0:  # what was lost with it stays out of S
            X = X - self.lost[unit] @ (self.lost[unit].T @ X)
        own, turn = torch.linalg.eigh(X @ self.S @ X.T)
        left = 1 - sign * own
        lost = (left < DETERMINED) & ((turn.T @ self.z[rows]).abs() < HARMLESS * self.size) & (sign > 0)
        return Carried(left[~lost], turn[:, ~lost], turn[:, lost] if sign > 0 else self.lost[unit], X)

    def _changes_of(self, unit: int, carried: Carried, sign: float = 1.0) -> Tensor:
        """What taking a unit out (sign 1), or putting it back (-1), adds to the moments; NaN: undetermined."""
        left, turn, lost, _ = carried
        if bool((left < DETERMINED).any()):
            return torch.full((4,), torch.nan).double()
        rows = self.question.units[unit]
        z, r = turn.T @ self.z[rows], turn.T @ self.r[rows]
        # Rows that carry no direction take their squares along, and a lost direction its degree of freedom.
        squares = (r * r / left).sum() + (self.r[rows] - turn @ r).square().sum()
        freedom = self.counted[unit] - lost.shape[1]
        return sign * torch.stack([-(z * r / left).sum(), (z * z / left).sum(), -squares, -freedom])

    def remove(self, unit: int, sign: float = 1.0) -> None:
        """Take a unit out of the fit, or put one back that was taken out (sign -1); both are exact.

        Residuals, leverages and moments of all rows follow, at the price of a product of X with the unit's rows.
        """
        rows, carried = self.question.units[unit], self._carried(unit, sign)
        self.now = Moments(
            *(x + d for x, d in zip(self.now, self._changes_of(unit, carried, sign), strict=True))
        )
        left, turn, self.lost[unit], X = carried
        z, r = turn.T @ self.z[rows], turn.T @ self.r[rows]
        SX = self.S @ (turn.T @ X).T
        reach = self.question.whole.rows @ SX
        self.z = self.z + sign * reach @ (z / left)
        self.r = self.r + sign * reach @ (r / left)
        self.h = self.h + sign * (reach.square() / left).sum(1)
        self.S = self.S + sign * (SX / left) @ SX.T
        self.free[unit] = sign < 0

    @property
    def margin(self) -> float:
        """How far the conclusion is from not holding."""
        return float(self.question.margin(self.now))


def fewest(question: Question, most: int) -> list[int] | None:
    """Units without which the conclusion does not hold, as few as were found; None where the search finds none.

    Greedy: of all units the one whose removal takes most off the margin, from the fit without those before it. The set
    is then made smaller, one by one, by exchanging members.

    Args:
        question: what is searched for.
        most: the largest set.
    """
    here, chosen = Removals(question), list[int]()
    start = here.margin
    with gauge("searching rows to remove") as reached:
        while here.margin > 0:
            reached(1 - here.margin / start)
            margins = question.margin(here.after()).nan_to_num(torch.inf)
            drops = here.margin - margins.sort().values
            gain = int((drops > 0).sum())
            if not gain or len(chosen) >= most:
                return None
            needed = int((drops[:gain].cumsum(0) < here.margin).sum()) + 1
            take = max(1, min(needed // STRIDE, gain, most - len(chosen)))
            for unit in margins.topk(take, largest=False).indices.tolist():
                here.remove(unit)
                chosen.append(unit)
    smaller: list[int] | None = _shortest(question, chosen)
    while smaller is not None:
        chosen = smaller
        smaller = _one_less(question, chosen)
    return chosen


def fewest_refitted(problem: LinearModel, question: Question, most: int) -> list[int] | None:
    """`fewest` of a model that is trained again at every step, by what its next Newton step without each unit says.

    A set without which there is no optimum (separated classes) ends the search.

    Args:
        problem: the model, at its optimum.
        question: what is searched for.
        most: the largest set.
    """
    here, chosen = question, list[int]()
    start = float(question.margin(question.moments()))
    with gauge("searching rows to remove, with refits") as reached:
        while (ahead := float(here.margin(here.moments()))) > 0:
            reached(1 - ahead / start)
            steps = Removals(here)
            gone = set(chosen)
            left = [g for g in range(len(question.units)) if g not in gone]
            margins = question.margin(steps.after()).nan_to_num(torch.inf)
            drops = steps.margin - margins.sort().values
            gain = int((drops > 0).sum())
            if not gain or len(chosen) >= most:
                return None
            needed = int((drops[:gain].cumsum(0) < steps.margin).sum()) + 1
            take = max(1, min(needed // 2, gain, most - len(chosen)))
            chosen += [left[j] for j in margins.topk(take, largest=False).indices.tolist()]
            try:
                here = without(problem, question, chosen)
            except NotConvergedError:
                return None

    def overturns(beginning: list[int]) -> bool:
        there = without(problem, question, beginning)
        return float(there.margin(there.moments())) <= 0

    return chosen[: shortest_that(chosen, overturns)]


def first_order(question: Question) -> int | None:
    """How many units sums of single influences need, each a derivative in the rows' weights; None: all do not do."""
    whole, now = question.whole, question.moments()
    z, r = question.side * (whole.rows @ question.direction), whole.residual
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in now[:3]]
        question.margin(Moments(leaves[0], leaves[1], leaves[2], now.freedom)).backward()
        slopes = [0.0 if x.grad is None else float(x.grad) for x in leaves]
    effects = -slopes[0] * z * r + slopes[1] * z * z - slopes[2] * r * r
    each = torch.stack([effects[rows].sum() for rows in question.units]).sort().values
    left = float(question.margin(now)) + each.clamp(max=0).cumsum(0)
    reached = (left <= 0).nonzero()
    return int(reached[0]) + 1 if len(reached) else None


def without(problem: LinearModel, question: Question, gone: Sequence[int]) -> Question:
    """The question about the model trained without some units; the units that are left have their rows' new numbers.

    Args:
        problem: the model.
        question: what is asked of it.
        gone: the units removed.

    Raises:
        NotConvergedError: where there is no optimum without them.
    """
    removed = torch.zeros(problem.n, dtype=torch.bool)
    for g in gone:
        removed[question.units[g]] = True
    there = problem.without(removed.nonzero()[:, 0])
    if question.curved:
        there = there.minimised()
    numbers, out = (~removed).cumsum(0) - 1, set(gone)
    units = [numbers[rows] for g, rows in enumerate(question.units) if g not in out]
    return Question.of(there, question.asked, units, question.side, reduced=True)


def _shortest(question: Question, chosen: list[int]) -> list[int]:
    """The shortest beginning of a list of units that will do."""
    here = Removals(question)
    for k, unit in enumerate(track(chosen, "cutting the set to what is needed", len(chosen))):
        here.remove(unit)
        if here.margin <= 0:
            return chosen[: k + 1]
    return chosen


def _one_less(question: Question, chosen: list[int]) -> list[int] | None:
    """A set with one unit less that will do, found by exchanging members one by one; None where none is found."""
    price = len(chosen) ** 2 * question.whole.rows.numel()
    if len(chosen) < 2 or price > SWAPS:
        return None
    here, members = Removals(question), chosen[:-1]
    for unit in members:
        here.remove(unit)
    better = True
    while better and here.margin > 0:
        better = False
        for unit in track(list(members), "making the set smaller", len(members)):
            before = here.margin
            here.remove(unit, -1.0)
            margins = question.margin(here.after()).nan_to_num(torch.inf)
            best = int(margins.argmin())
            here.remove(best)
            members[members.index(unit)] = best
            better = better or here.margin < before - 1e-12 * abs(before)
            if here.margin <= 0:
                return members
    return None
