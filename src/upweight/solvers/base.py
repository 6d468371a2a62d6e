"""Solvers: hyper-parameters that digest a curvature into an inverse, and the answers of that with their error."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from ..curvature.base import Curvature
from ..errors import IndefiniteError, InfluenceError, NotConvergedError
from ..linalg.coordinates import power_of_two
from ..types import Tensor


class Status(enum.Enum):
    """How the solve of one right-hand side ended; only "converged" and "estimated" answers may be used.

    A solve ends as "converged" where its recomputed residual meets the solver's tolerance, and no bound of its error
    says that its scores may be wrong all the same. The others say why it does not, and `REMEDIES` what to do about it.
    """

    CONVERGED = "converged"
    NOT_CONVERGED = "not converged"
    NEGATIVE_CURVATURE = "negative curvature"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    ESTIMATED = "estimated"
    """An approximate answer without a tolerance to meet; its residual says how good it is."""


REMEDIES = {
    Status.NOT_CONVERGED: "allow more steps, give a preconditioner, raise the damping or loosen rtol; bring inputs to "
    "comparable units, or up to some thousand parameters use Exact",
    Status.NEGATIVE_CURVATURE: "raise the damping, or take GaussNewton in the place of a Hessian",
    Status.DIVERGED: "leave LiSSA's scale to be found automatically, or raise it; use larger mini-batches",
    Status.INTERRUPTED: "run again; rows that were finished are right",
}


@dataclass(frozen=True)
class Solution:
    """The answers s ~ A^-1 v for k rows v, with what is known about the error of each.

    Args:
        value: the answers (k, p).
        residual: ||v - A s|| / ||v|| of each row (k,), recomputed from `value` and not the solver's own running figure,
            in units in which A's diagonal is about 1 where these are known: dollars or yen make no difference.
        steps: how many products, or steps of a series, each row took (k,).
        status: how each solve ended.
        precision: rounding `value` to it changes it by far less than the residual allows; None: its own precision.
        error: a bound of ||s - A^-1 v||_A / ||s||_A of each row (k,), which is the relative error of a row of scores;
            NaN where nothing bounds it; None: nobody looked.
        told: what is said in place of how many solves converged in how many steps, where all of them did.
    """

    value: Float[Tensor, "k p"]
    residual: Float[Tensor, " k"]
    steps: Int[Tensor, " k"]
    status: tuple[Status, ...]
    precision: torch.dtype | None = None
    error: Float[Tensor, " k"] | None = None
    told: str = ""

    @property
    def rounded(self) -> Float[Tensor, "k p"]:
        """The answers `value` (k, p) rounded to `precision`: passes over the training data cost less with them."""
        return self.value.to(self.precision or self.value.dtype)

    @property
    def off(self) -> Float[Tensor, " k"]:
        """How far each row may be off, relative (k,): the bound of its error where there is one, else its residual."""
        if self.error is None:
            return self.residual
        return torch.where(self.error.isnan(), self.residual, self.error)

    @property
    def ok(self) -> bool:
        """Whether every row may be used: it has converged, or is an estimate by a method without a tolerance."""
        return all(status in (Status.CONVERGED, Status.ESTIMATED) for status in self.status)

    @property
    def verdict(self) -> str:
        """One sentence on all rows: how they ended, the largest residual, the most steps, remedies for failures."""
        worst = float(self.residual.max())
        kinds = sorted({status.value for status in self.status})
        sentence, steps = self.told, ""
        if not self.told or not self.ok:
            sentence = f"{len(self.status)} solve{'s' * (len(self.status) > 1)} {', '.join(kinds)}"
            steps = f", at most {int(self.steps.max())} steps"
        sentence += f"; largest relative residual {worst:.1e}{steps}"
        if self.error is not None and not bool(self.error.isnan().any()):
            sentence += f"; scores off by at most {float(self.error.max()):.1e} of their size"
        remedies = {REMEDIES[status] for status in self.status if status in REMEDIES}
        return sentence + "".join(f"; {remedy}" for remedy in sorted(remedies))

    def check(self) -> Solution:
        """The solution itself where every row may be used, or the failure as an exception.

        Raises:
            IndefiniteError: where negative curvature was met in any row.
            NotConvergedError: where a row ended in any other failure; the verdict is its message.
        """
        if self.ok:
            return self
        if Status.NEGATIVE_CURVATURE in self.status:
            raise IndefiniteError(self.verdict)
        raise NotConvergedError(self.verdict)


@dataclass(frozen=True, eq=False)
class Inverse:
    """A curvature digested by a solver, to be applied to as many rows as you like, as often as you like.

    Args:
        curvature: the curvature A, damping included.
        solve: finite rows (k, p) in the curvature's precision -> their `Solution`.
        quadratic: rows (k, p) -> v^T A^-1 v (k,), where the solver has a closed form for it.
        exact: whether `quadratic` comes from the curvature's own factor, and no approximation of it.

    >>> from upweight import Dense, Exact
    >>> inverse = Exact().prepare(Dense(torch.diag(torch.tensor([2.0, 4.0]))))
    >>> inverse(torch.ones(1, 2)).value, inverse.quadratic(torch.ones(1, 2))
    (tensor([[0.5000, 0.2500]]), tensor([0.7500]))
    """

    curvature: Curvature
    solve: Callable[[Tensor], Solution]
    quadratic: Callable[[Tensor], Tensor] | None = None
    exact: bool = False

    def __call__(self, rows: Float[Tensor, "k p"], *, throw: bool = True) -> Solution:
        """The answers A^-1 v for every row v, each to the same relative accuracy whatever its size.

        Args:
            rows: k right-hand sides v (k, p), k >= 1.
            throw: whether a failed row is an exception; without, its status says so.

        Raises:
            ValueError: for another shape.
            InfluenceError: for NaN or infinity, naming the row, and for failed rows (`Solution.check`).
        """
        if rows.ndim != 2 or rows.shape[1] != self.curvature.p or not len(rows):
            raise ValueError(
                f"rows must have shape (k, {self.curvature.p}) with k >= 1, got {tuple(rows.shape)}"
            )
        finite = rows.isfinite().all(1)
        if not finite.all():
            raise InfluenceError(f"right-hand side {int((~finite).nonzero()[0, 0])} has a NaN or infinity")
        if not bool(rows.any()):
            value, none = torch.zeros_like(rows).to(self.curvature.dtype), rows.new_zeros(len(rows))
            return Solution(value, none, none.long(), (Status.CONVERGED,) * len(rows))
        # Squares of all sizes stay within the range of the numbers; powers of two change no digit.
        unit = power_of_two(rows.abs().amax(1).double())[:, None]
        solution = self.solve((rows * unit).to(self.curvature.dtype))
        solution = replace(solution, value=(solution.value / unit).to(solution.value))
        return solution.check() if throw else solution


class Solver(ABC):
    """A way to solve A s = v: hyper-parameters only, which know neither curvature nor data.

    `Exact` factorises once, `ConjugateGradient` meets a tolerance by products with A alone, `LiSSA` and `Arnoldi`
    estimate at a fixed cost. A solver of your own is a frozen dataclass with one method, `prepare`.
    """

    preconditioner: Curvature | None = None
    """Another curvature that the solver inverts on the way, where it needs one."""

    @abstractmethod
    def prepare(self, curvature: Curvature) -> Inverse:
        """Digest the curvature once, into an inverse to be applied often.

        Whatever can be found out about A before a right-hand side is known happens here: factorisations, the search
        for negative eigenvalues, scales.

        Raises:
            IndefiniteError: where A is found to have a negative or zero eigenvalue.
            TypeError: for a curvature that this solver cannot work with.
        """
