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
from .woodbury import HELD_BYTES, Downdated, TotalHessian, roots_of

MOST = 12
"""Steps after which a row that still moves is given up, and marked."""
ENOUGH = 1e-3
"""The share of the move that may be left where a row is settled."""
UNSETTLED = 0.03
"""The share from which on a row is marked: retraining without it gives something else."""
RIDGE = 1e-12
"""What tells steps apart that are nearly alike, as a share of the largest."""


class Settled(NamedTuple):
    """The parameters without each of k training rows, how many Newton steps led there, and what is left to move.

    `left` (k,) is the length of the next step in units of the first one's, or of the whole move's where that is
    shorter, in the norm of the Hessian (Newton decrements): about the share of the move that is missing. NaN where
    nothing determines the model without the row.
    """

    theta: Float[Tensor, "k p"]
    steps: Int[Tensor, " k"]
    left: Float[Tensor, " k"]


class Changes(NamedTuple):
    """The change (m, n) of m test measures as each of n training rows is removed, alone.

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


def settled(
    total: TotalHessian,
    rows: Int[Tensor, " k"],
    start: Float[Tensor, "k p"],
    *,
    most: int = MOST,
    smallest: float = 0.0,
) -> Settled:
    """Newton steps without each of some rows, from where the first one led; at most `rows_held` rows at once.

    Each step costs two products with X for a row. Training that was not finished stays so: its gradient is subtracted,
    and nothing moves but by the removal. Of all places that a row came through the one with the least left is kept.

    Args:
        total: the factor of the total Hessian.
        rows: the training rows, each removed alone.
        start: the parameters after the first step (k, p); NaN where nothing determines them.
        most: steps in all.
        smallest: first steps that are shorter count as so long: what is left of them is rounding.
    """
    found = Settled(start.clone(), torch.ones_like(rows), torch.full(rows.shape, torch.nan).double())
    place = (~start.isnan().any(1)).nonzero()[:, 0]
    if not len(place):
        return found
    walk, theta = _Walk.begun(total, rows[place]), start[place]
    first, least = walk.length, max(smallest, torch.finfo(torch.float64).tiny)
    for step in range(1, most + 1):
        walk = walk.gone_to(theta)
        left = walk.length / torch.minimum(first, walk.moved).clamp(min=least)
        better = ~(left >= found.left[place])  # of the first place nothing is known: NaN
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
    """The h places that k rows have come through, with the gradient and the Newton step at each.

    Gradients are those of the total objective without the row, less what training left of the whole one's.
    """

    inverse: Downdated
    rows: Int[Tensor, " k"]
    places: Float[Tensor, "k h p"]
    gradients: Float[Tensor, "k h p"]
    steps: Float[Tensor, "k h p"]

    @classmethod
    def begun(cls, total: TotalHessian, rows: Int[Tensor, " k"]) -> _Walk:
        """The walk at the problem's own parameters."""
        problem = total.problem
        inverse = Downdated(total, *roots_of(problem, rows, len(rows)))
        none = problem.theta.new_empty(len(rows), 0, problem.p)
        return cls(inverse, rows, none, none, none).gone_to(problem.theta.repeat(len(rows), 1))

    def gone_to(self, theta: Float[Tensor, "k p"]) -> _Walk:
        """The walk with one place more."""
        problem = self.inverse.total.problem
        reduced = problem.gradients_without(list(self.rows.split(1)), theta)
        gradient = ((problem.n - 1) * reduced - problem.n * problem.gradient())[:, None]
        return replace(
            self,
            places=torch.cat([self.places, theta[:, None]], dim=1),
            gradients=torch.cat([self.gradients, gradient], dim=1),
            steps=torch.cat([self.steps, -self.inverse.solve(gradient)], dim=1),
        )

    def of(self, moving: Tensor) -> _Walk:
        """The walk of some of the rows, by a mask (k,)."""
        rest = (self.rows, self.places, self.gradients, self.steps)
        return _Walk(self.inverse.of(moving), *(of_all[moving] for of_all in rest))

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
