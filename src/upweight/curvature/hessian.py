"""The two matrices that are means over training examples: the Hessian and the Gauss-Newton matrix."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float, Int

from ..capabilities import SecondDerivative
from ..linalg.coordinates import Coordinates, power_of_two
from ..linalg.dual_factor import DualFactor
from ..linalg.factorizations import CholeskyFactor, Factor, MovedFactor
from ..linalg.rows import as_rows
from ..objective import Objective
from ..types import Operator, Tensor
from .base import ExampleMean, ProblemCurvature, extreme_eigenvalues

FEW_UNPENALISED = 64
"""Parameters without penalty up to which the dual side eliminates them."""
SURE = 0.5
"""The share of a smallest eigenvalue by Lanczos that counts as known: it is approached from above."""
Self = TypeVar("Self", bound="EmpiricalCurvature")


@dataclass(frozen=True, eq=False)
class EmpiricalCurvature(ProblemCurvature, ExampleMean):
    """What the Hessian and the Gauss-Newton matrix share: a mean over training examples plus the penalty of R.

    Products and matrices come from the problem's `SecondDerivative`, factors from the primal or the dual side. With
    fewer rows r of a root U than parameters, A = U^T U + diag(l2 + damping) is inverted by a matrix (r, r).

    Args:
        problem: the problem whose objective R is.
        damping: what is added to the diagonal, >= 0.
    """

    cache: dict[torch.dtype, Factor] = field(default_factory=dict, init=False, repr=False)
    """Factors by their precision."""

    @property
    def name(self) -> str:
        """What the matrix is called, "Hessian" or "GaussNewton": the name that its spectrum is kept under."""
        return type(self).__name__

    def damped(self: Self, damping: float) -> Self:
        return dataclasses.replace(self, damping=damping)

    def of(self: Self, problem: Objective) -> Self:
        return dataclasses.replace(self, problem=problem)

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        product = self.undamped.product(dtype)
        if self.damping == 0:
            return product
        return lambda rows: product(rows) + self.damping * rows

    def fingerprint(self) -> str:
        return f"{self.name}({self.problem.fingerprint()}, damping={self.damping!r})"

    def spectrum(self, steps: int = 100) -> tuple[float, float]:
        known = self.problem.spectra  # looked at once per problem, whatever the damping
        if self.name not in known:
            lowest, highest = extreme_eigenvalues(self, steps)
            known[self.name] = lowest - self.damping, highest - self.damping
        lowest, highest = known[self.name]
        return lowest + self.damping, highest + self.damping

    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        return self.undamped.minibatch_product(rows, index) + self.damping * rows

    def sample(self, k: int, seed: int = 0) -> Float[Tensor, "k p"]:
        generator = torch.Generator().manual_seed(seed)
        found = self.undamped.sample(k, generator)
        noise = torch.randn(found.shape, generator=generator).to(found)
        return found + noise * (self.problem.l2 + self.damping).sqrt().to(found)

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        H = self.undamped.matrix(dtype)
        H.diagonal().add_(self.damping)
        return H

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        # An explicit matrix affords float64, which a float32 model's conditioning needs.
        dtype = dtype or torch.float64
        if dtype not in self.cache:
            self.cache[dtype] = self._factor(dtype)
        return self.cache[dtype]

    @cached_property
    def coordinates(self) -> Coordinates:  # type: ignore[override]
        found = self.undamped.centred() if self.damping == 0 else None
        there, center = (self.undamped, None) if found is None else (found[0], found[1].center)
        diagonal = there.diagonal()
        return Coordinates(
            None if diagonal is None else power_of_two((diagonal + self.damping).sqrt()), center
        )

    @property
    @abstractmethod
    def convex(self) -> bool:
        """Whether the mean over examples is known to have no negative eigenvalue, without penalty and damping."""

    @property
    def floor(self) -> Float[Tensor, " p"] | None:  # type: ignore[override]
        """The penalty and the damping, where the mean over examples is known to be >= 0; else what Lanczos found."""
        if self.convex:
            return self.problem.l2 + self.damping
        lowest, _ = self.problem.spectra.get(self.name, (-torch.inf, None))
        known = max(0.0, SURE * (lowest + self.damping))
        return torch.full_like(self.problem.l2, known) if known else None

    def _factor(self, dtype: torch.dtype) -> Factor:
        found = self.undamped.centred() if self.damping == 0 else None
        if found is None:
            return self._factor_of(self.undamped, dtype)
        return MovedFactor(self._factor_of(found[0], dtype), found[1])

    def _factor_of(self, matrix: SecondDerivative, dtype: torch.dtype) -> Factor:
        # Directions that are flat by construction are given some curvature: solves of gradients never go there.
        gauge = self.problem.gauge if self.damping == 0 else None
        diagonal = self.problem.l2 + self.damping
        root = matrix.root() if int((diagonal == 0).sum()) < FEW_UNPENALISED else None
        if root is not None:
            if gauge is not None:
                root = as_rows(root).dense()
                size = (root.square().sum(0) * gauge.square()).sum(1, keepdim=True).sqrt()
                root = torch.cat([root, gauge * size.clamp(min=torch.finfo(root.dtype).tiny)])
            return DualFactor(root.to(dtype), diagonal.to(dtype))
        explicit = matrix.matrix(dtype)
        explicit.diagonal().add_(self.damping)
        return CholeskyFactor(explicit, gauge)


@dataclass(frozen=True, eq=False)
class Hessian(EmpiricalCurvature):
    """The Hessian of R at theta, penalty included, plus damping * I: the H of Eq. 1 and 2.

    Of a network that is not at a minimum it has negative eigenvalues; damping or `GaussNewton` cures that (R18).

    Args:
        problem: the problem whose objective R is.
        damping: what is added to the diagonal, >= 0: the answers are those of a penalty that is larger by so much.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> Hessian(problem, damping=1.0).matrix().diagonal()
    tensor([2., 2.], dtype=torch.float64)
    """

    @property
    def undamped(self) -> SecondDerivative:
        return self.problem.hessian

    @property
    def convex(self) -> bool:
        return self.problem.facts.convex

    @property
    def semidefinite(self) -> bool:
        lowest, _ = self.problem.spectra.get(self.name, (-torch.inf, None))
        return self.convex or lowest + self.damping >= 0


@dataclass(frozen=True, eq=False)
class GaussNewton(EmpiricalCurvature):
    """J^T H_out J, the generalised Gauss-Newton matrix of R, penalty included, plus damping * I.

    J is the Jacobian of the outputs, H_out the Hessian of the loss in them, averaged over training examples with their
    weights. Equal to the Hessian for models linear in their parameters, positive semi-definite for convex losses.

    Args:
        problem: the problem whose objective R is.
        damping: what is added to the diagonal, >= 0: the answers are those of a penalty that is larger by so much.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> GaussNewton(problem).operator()(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1., 1.]], dtype=torch.float64)
    """

    @property
    def undamped(self) -> SecondDerivative:
        return self.problem.gauss_newton

    @property
    def convex(self) -> bool:
        return True

    @property
    def semidefinite(self) -> bool:
        return True
