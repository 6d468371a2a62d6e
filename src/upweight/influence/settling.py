"""Further Newton steps without each of some training rows, alone, until hardly anything is left to move.

One Newton step (B2) is exact where losses are quadratic. Elsewhere the curvature changes on the way: the steps that
follow take the gradient at the shifted parameters, and the Hessian at the old ones less the row's share, corrected by
what the steps before have shown of its change (Anderson acceleration; Walker & Ni, 2011).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..objective import LinearModel
from ..types import Tensor
from .woodbury import HELD_BYTES, Downdated, TotalHessian

MOST = 12
"""Steps after which a row that still moves is given up, and marked."""
ENOUGH = 1e-3
"""The share of the move that may be left where a row is settled."""
UNSETTLED = 0.03
"""The share from which on a row is marked: retraining without it gives something else."""
SAMPLED = 256
"""Rows that tell how long a usual first step is."""
RIDGE = 1e-12
"""What tells steps apart that are nearly alike, as a share of the largest."""


class Settled(NamedTuple):
    """The parameters without each of k sets of rows, how many Newton steps led there, and what is left to move.

    `left` (k,) is the length of the next step in units of the first one's, or of the whole move's where that is
    shorter, in the norm of the Hessian (Newton decrements): about the share of the move that is missing. NaN where
    nothing determines the model without the row.
    """

    theta: Float[Tensor, "k p"]
    steps: Int[Tensor, " k"]
    left: Float[Tensor, " k"]


class Changes(NamedTuple):
    """The change (m, n) of m test measures as each of n training rows, or sets of them, is removed, alone.

    `steps` (m, n) are the Newton steps behind each, `left` (m, n) what was left to move (`settling.Settled`); NaN where
    nobody looked, after a single step.
    """

    changes: Float[Tensor, "m n"]
    steps: Int[Tensor, "m n"]
    left: Float[Tensor, "m n"]

    @classmethod
    def of_one_step(cls, changes: Float[Tensor, "m n"]) -> Changes:
        """Changes by a single step each."""
        return cls(changes, torch.ones_like(changes, dtype=torch.long), torch.full_like(changes, torch.nan))


def rows_held(problem: LinearModel) -> int:
    """How many rows can be settled at once: their vectors of p numbers fill what may be held."""
    return max(1, HELD_BYTES // (8 * problem.p * (2 * problem.c + 3 * MOST)))


def least_length(total: TotalHessian) -> float:
    """The length of a step that counts as none, in the norm of the Hessian: a millionth of a usual row's first one."""
    problem = total.problem
    some = torch.linspace(0, problem.n - 1, min(problem.n, SAMPLED)).long()
    g = problem.train_gradients(some).double()
    return 1e-6 * float((g * total.solve(g)).sum(1).clamp(min=0).mean().sqrt())


def settled(
    problem: LinearModel,
    inverse: Downdated,
    sets: list[Tensor],
    start: Float[Tensor, "k p"],
    *,
    most: int = MOST,
    smallest: float = 0.0,
) -> Settled:
    """Newton steps without each of some sets of rows, from where the first one led; at most `rows_held` sets at once.

    Each step costs two products with X for a set. Training that was not finished stays so: its gradient is subtracted,
    and nothing moves but by the removal. Of all places that a set came through the one with the least left is kept.

    Args:
        problem: the model.
        inverse: the inverse Hessian without each of the sets.
        sets: the training rows of each of k sets.
        start: the parameters after the first step (k, p); NaN where nothing determines them.
        most: steps in all.
        smallest: first steps that are shorter count as so long: what is left of them is rounding.
    """
    one = torch.ones(len(sets), dtype=torch.long)
    found = Settled(start.clone(), one, torch.full(one.shape, torch.nan).double())
    place = (~start.isnan().any(1)).nonzero()[:, 0]
    if not len(place):
        return found
    walk = _Walk.begun(problem, inverse.of(place), [sets[j] for j in place.tolist()])
    theta, first = start[place], walk.length
    least = max(smallest, torch.finfo(torch.float64).tiny)
    for step in range(1, most + 1):
        walk = walk.gone_to(theta)
        left = walk.length / torch.minimum(first, walk.moved).clamp(min=least)
        better = (left < found.left[place]) | found.left[place].isnan()  # of the first place nothing is known
        found.theta[place[better]], found.left[place[better]] = theta[better], left[better]
        found.steps[place] = step
        moving = found.left[place] > ENOUGH
        if not bool(moving.any()):
            break
        walk, first, place = walk.of(moving), first[moving], place[moving]
        theta = walk.onward()
    return found


@dataclass(frozen=True, eq=False)
class _Walk:
    """The h places that the parameters without k sets have come through, with the gradient and Newton step at each.

    Gradients are those of the total objective without the set, less what training left of the whole one's.
    """

    problem: LinearModel
    inverse: Downdated
    sets: list[Tensor]
    whole: Float[Tensor, "1 p"]
    places: Float[Tensor, "k h p"]
    gradients: Float[Tensor, "k h p"]
    steps: Float[Tensor, "k h p"]

    @classmethod
    def begun(cls, problem: LinearModel, inverse: Downdated, sets: list[Tensor]) -> _Walk:
        """The walk at the problem's own parameters."""
        none = problem.theta.new_empty(len(sets), 0, problem.p)
        # Not `problem.gradient()`: a scale that follows the residuals has to follow those of all rows too.
        whole = problem.gradients_without([torch.empty(0, dtype=torch.long)], problem.theta[None])
        walk = cls(problem, inverse, sets, whole, none, none, none)
        return walk.gone_to(problem.theta.repeat(len(sets), 1))

    def gone_to(self, theta: Float[Tensor, "k p"]) -> _Walk:
        """The walk with one place more."""
        problem = self.problem
        left = torch.tensor([[problem.n - len(rows)] for rows in self.sets])
        reduced = problem.gradients_without(self.sets, theta)
        gradient = (left * reduced - problem.n * self.whole)[:, None]
        return replace(
            self,
            places=torch.cat([self.places, theta[:, None]], dim=1),
            gradients=torch.cat([self.gradients, gradient], dim=1),
            steps=torch.cat([self.steps, -self.inverse.solve(gradient)], dim=1),
        )

    def of(self, moving: Tensor) -> _Walk:
        """The walk of some of the sets, by a mask (k,)."""
        sets = [rows for rows, on in zip(self.sets, moving.tolist(), strict=True) if on]
        rest = (of_all[moving] for of_all in (self.places, self.gradients, self.steps))
        return _Walk(self.problem, self.inverse.of(moving), sets, self.whole, *rest)

    @property
    def length(self) -> Float[Tensor, " k"]:
        """The length of the newest step in the norm of the Hessian: sqrt(g^T H^-1 g)."""
        return (self.gradients[:, -1] * -self.steps[:, -1]).sum(1).clamp(min=0).sqrt()

    @property
    def moved(self) -> Float[Tensor, " k"]:
        """The length of the move so far, in the norm of the Hessian between its ends: sqrt(move . change of g)."""
        move, change = (of_all[:, -1] - of_all[:, 0] for of_all in (self.places, self.gradients))
        return (move * change).sum(1).clamp(min=0).sqrt()

    def onward(self) -> Float[Tensor, "k p"]:
        """The next place: the newest step from there, less what combines older places to the least step."""
        steps, gradients, places = (
            of_all[:, :-1] - of_all[:, -1:] for of_all in (self.steps, self.gradients, self.places)
        )
        products = -gradients @ steps.mT  # in the norm of the Hessian, of which steps are -H^-1 gradients
        products = (products + products.mT) / 2
        largest = products.diagonal(dim1=1, dim2=2).amax(1).clamp(min=torch.finfo(torch.float64).tiny)
        products += RIDGE * largest[:, None, None] * torch.eye(products.shape[1], dtype=products.dtype)
        newest = self.steps[:, -1, :, None]
        shares = torch.linalg.solve(products, -gradients @ newest)
        return self.places[:, -1] + (newest - (places + steps).mT @ shares)[:, :, 0]
