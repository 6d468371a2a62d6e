"""What a solver is and what every solve answers with."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..curvature.base import Curvature
from ..errors import IndefiniteError, InfluenceError, NotConvergedError
from ..types import Operator, Tensor


class Status(enum.Enum):
    """How a solve of one right-hand side ended."""

    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    NEGATIVE_CURVATURE = "negative curvature"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    ESTIMATED = "estimated"
    """A stochastic answer without a tolerance to meet; its residual says how good it is."""


REMEDIES = {
    Status.NOT_CONVERGED: "allow more steps, give a preconditioner, raise the damping or loosen rtol",
    Status.NEGATIVE_CURVATURE: "raise the damping or use GaussNewton",
    Status.DIVERGED: "leave LiSSA's scale to be found automatically, or raise it; use larger mini-batches",
    Status.INTERRUPTED: "run again; rows that were finished are right",
}


@dataclass(frozen=True)
class Solution:
    """s ~ A^-1 v for k rows, with what is known about the error.

    `value` (k, p); `residual` (k,) is ||v - A s|| / ||v||, recomputed from `value`; `steps` (k,); `status` per row.
    Rounding `value` to `precision` changes it by far less than its residual allows (None: its own precision).
    """

    value: Float[Tensor, "k p"]
    residual: Float[Tensor, " k"]
    steps: Int[Tensor, " k"]
    status: tuple[Status, ...]
    precision: torch.dtype | None = None

    @property
    def rounded(self) -> Float[Tensor, "k p"]:
        """The `value` in its `precision`: what passes over the data are made with."""
        return self.value.to(self.precision or self.value.dtype)

    @property
    def ok(self) -> bool:
        """Whether every row may be used."""
        return all(status in (Status.CONVERGED, Status.ESTIMATED) for status in self.status)

    @property
    def verdict(self) -> str:
        """One sentence on all rows."""
        worst = float(self.residual.max())
        kinds = sorted({status.value for status in self.status})
        sentence = (
            f"{len(self.status)} solve{'s' * (len(self.status) > 1)} {', '.join(kinds)}; "
            f"largest relative residual {worst:.1e}, at most {int(self.steps.max())} steps"
        )
        remedies = {REMEDIES[status] for status in self.status if status in REMEDIES}
        return sentence + "".join(f"; {remedy}" for remedy in sorted(remedies))

    def check(self) -> Solution:
        """Itself, or the failure as an exception."""
        if self.ok:
            return self
        if Status.NEGATIVE_CURVATURE in self.status:
            raise IndefiniteError(self.verdict)
        raise NotConvergedError(self.verdict)


@dataclass(frozen=True, eq=False)
class Inverse:
    """A curvature digested by a solver; apply it to as many rows as you like, as often as you like.

    `quadratic(rows)` gives v^T A^-1 v where the solver has a closed form for it; `exact` says whether that is the
    curvature's own factor, and no approximation of it.
    """

    curvature: Curvature
    solve: Callable[[Tensor], Solution]
    quadratic: Callable[[Tensor], Tensor] | None = None
    exact: bool = False

    def __call__(self, rows: Float[Tensor, "k p"], *, throw: bool = True) -> Solution:
        """A^-1 v for every row v. Raises `InfluenceError` on a failed row unless `throw=False`."""
        if rows.ndim != 2 or rows.shape[1] != self.curvature.p or not len(rows):
            raise ValueError(
                f"rows must have shape (k, {self.curvature.p}) with k >= 1, got {tuple(rows.shape)}"
            )
        finite = rows.isfinite().all(1)
        if not finite.all():
            raise InfluenceError(f"right-hand side {int((~finite).nonzero()[0, 0])} has a NaN or infinity")
        rows = rows.to(self.curvature.dtype)
        if not bool(rows.any()):
            none = rows.new_zeros(len(rows))
            return Solution(torch.zeros_like(rows), none, none.long(), (Status.CONVERGED,) * len(rows))
        solution = self.solve(rows)
        return solution.check() if throw else solution


class Solver(ABC):
    """Hyper-parameters of a way to solve A s = v."""

    @abstractmethod
    def prepare(self, curvature: Curvature) -> Inverse:
        """Digest the curvature once, to be inverted often."""

    @property
    @abstractmethod
    def helper(self) -> Curvature | None:
        """Another curvature that the solver inverts on the way, or None."""


def relative_residual(operator: Operator, value: Tensor, rows: Tensor) -> Float[Tensor, " k"]:
    """||v - A s|| / ||v|| per row, recomputed; 0 for a zero row solved by zero."""
    norm = rows.norm(dim=1)
    return (rows - operator(value)).norm(dim=1) / torch.where(norm > 0, norm, torch.ones_like(norm))
