"""Curvatures: symmetric operators on flat vectors, with their damping.

A curvature knows a problem and no solver. `operator()` prepares it for many products, `factor()` digests it into an
exact inverse, and `EmpiricalCurvature.sampled` is its unbiased estimate from a few training examples.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import LinearOperator, eigsh

from ..linalg.factorizations import CholeskyFactor, DualFactor, Factor
from ..objective import Objective
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..types import Operator, Tensor, wide

DENSE_SPECTRUM = 64
"""Up to this many parameters eigenvalues come from the explicit matrix."""


def check_damping(damping: float) -> None:
    """Refuse negative or non-finite damping."""
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be a finite number >= 0, got {damping}")


class Curvature(ABC):
    """A symmetric matrix A + damping * I on flat vectors (p,)."""

    damping: float

    @property
    @abstractmethod
    def p(self) -> int:
        """The number of parameters."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision that residuals are judged in."""

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions that products can be evaluated in, from the fastest to `dtype`."""
        return (self.dtype,)

    @property
    def fast_dtype(self) -> torch.dtype:
        """What fast products take and give: at least float32."""
        return wide(self.precisions[0])

    @property
    def device(self) -> torch.device:
        """Where products are taken."""
        return torch.device("cpu")

    @property
    def shift(self) -> float:
        """What of the diagonal is the same for every parameter and known: the damping, and the smallest penalty."""
        return self.damping

    def damped(self, damping: float) -> Curvature:
        """The same with another damping."""
        return dataclasses.replace(self, damping=damping)  # type: ignore[type-var]

    @property
    @abstractmethod
    def semidefinite(self) -> bool:
        """Whether A is known to be positive semi-definite, so that nobody needs to look."""

    @abstractmethod
    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        """Rows (k, p) -> rows (k, p), damping included, prepared once for many products."""

    @abstractmethod
    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        """The exact inverse. Raises `IndefiniteError` where there is none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A content hash: equal curvatures give equal answers, in every process."""

    def spectrum(self, steps: int = 100) -> tuple[float, float]:
        """The smallest and largest eigenvalue, damping included, by the Lanczos recurrence: at most `steps` products.

        It stops when both ends are known to 1 % of their size, or to 1e-5 of the largest; they are approached from
        inside. Three vectors are held; that the recurrence loses orthogonality repeats eigenvalues, and moves no end.
        """
        if self.p <= DENSE_SPECTRUM:
            values = torch.linalg.eigvalsh(self._explicit())
            return float(values[0]), float(values[-1])
        product = self.operator(self.fast_dtype)
        v = torch.randn(1, self.p, generator=torch.Generator().manual_seed(0)).to(
            self.device, self.fast_dtype
        )
        v, before = v / v.norm(), torch.zeros_like(v)
        diagonal: list[float] = []
        beside: list[float] = []
        ends = np.zeros(2)
        for _ in track(range(steps), "spectrum", steps):
            w = product(v)
            if beside:
                w = w - beside[-1] * before
            diagonal.append(float((w * v).sum()))
            w = w - diagonal[-1] * v
            left = float(w.norm())
            values, vectors = eigh_tridiagonal(diagonal, beside)
            ends, size = values[[0, -1]], np.abs(values).max()
            error = left * np.abs(vectors[-1, [0, -1]])
            if left <= 1e-7 * size or bool((error <= np.maximum(0.01 * np.abs(ends), 1e-5 * size)).all()):
                break
            beside.append(left)
            before, v = v, w / left
        return float(ends[0]), float(ends[1])

    def eigenpairs(self, rank: int, seed: int = 0) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
        """The `rank` eigenvalues of largest size, damping included, largest first, and their eigenvectors as rows.

        Lanczos (SciPy's ARPACK) from a random start drawn from `seed`, to a relative accuracy of 1e-4; float64.
        """
        rank = min(rank, self.p)
        if self.p <= max(DENSE_SPECTRUM, 2 * rank):
            values, vectors = torch.linalg.eigh(self._explicit())
        else:
            product, dtype = self.operator(self.fast_dtype), self.fast_dtype

            def one(vector: Any) -> Any:
                row = torch.as_tensor(vector).reshape(1, -1).to(self.device, dtype)
                return product(row)[0].double().cpu().numpy()

            start = torch.randn(self.p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            matrix = LinearOperator((self.p, self.p), matvec=one, dtype="float64")
            found = eigsh(matrix, k=rank, which="LM", v0=start.numpy(), tol=1e-4)
            values, vectors = (torch.from_numpy(part) for part in found)
        best = values.abs().argsort(descending=True)[:rank]
        return values[best].to(self.device), vectors.T[best].to(self.device)

    def _explicit(self) -> Float[Tensor, "p p"]:
        """The matrix by p products, on the processor in float64."""
        product = self.operator(self.fast_dtype)
        return product(torch.eye(self.p, dtype=self.fast_dtype, device=self.device)).double().cpu()


@dataclass(frozen=True, eq=False)
class OfProblem(Curvature):
    """A curvature of a problem's objective: penalty included, in the problem's size and precisions."""

    problem: Objective
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)

    @property
    def p(self) -> int:
        return self.problem.p

    @property
    def dtype(self) -> torch.dtype:
        return self.problem.dtype

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return self.problem.precisions

    @property
    def device(self) -> torch.device:
        return self.problem.device

    @property
    def shift(self) -> float:
        return self.damping + float(self.problem.l2.min())


@dataclass(frozen=True, eq=False)
class EmpiricalCurvature(OfProblem):
    """A mean over training examples plus the penalty: R's Hessian or Gauss-Newton matrix."""

    @property
    @abstractmethod
    def gauss_newton(self) -> bool:
        """Whether this is the Gauss-Newton matrix."""

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        product = self.problem.operator(gauss_newton=self.gauss_newton, dtype=dtype)
        if self.damping == 0:
            return product
        return lambda rows: product(rows) + self.damping * rows

    def fingerprint(self) -> str:
        return f"{type(self).__name__}({self.problem.fingerprint()}, damping={self.damping!r})"

    def spectrum(self, steps: int = 100) -> tuple[float, float]:
        """As of any curvature; looked at once per problem, whatever the damping."""
        known = self.problem.spectra
        if self.gauss_newton not in known:
            lowest, highest = super().spectrum(steps)
            known[self.gauss_newton] = lowest - self.damping, highest - self.damping
        lowest, highest = known[self.gauss_newton]
        return lowest + self.damping, highest + self.damping

    def sampled(self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own examples: unbiased for the operator."""
        product = self.problem.sampled(rows, index, gauss_newton=self.gauss_newton)
        return product + self.damping * rows

    def draws(self, k: int, seed: int = 0) -> Float[Tensor, "k p"]:
        """Random rows whose covariance is this matrix A, damping and penalty included: that of A^-1 times them is A^-1.

        Raises TypeError for a Hessian that is not a Gauss-Newton matrix: it has no root.
        """
        if not (self.gauss_newton or self.problem.convex):
            raise TypeError("a Hessian may have negative eigenvalues and then has no root: use GaussNewton")
        generator = torch.Generator().manual_seed(seed)
        found = self.problem.draws(k, generator)
        noise = torch.randn(found.shape, generator=generator).to(found)
        return found + noise * (self.problem.l2 + self.damping).sqrt().to(found)

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix, damping included; p^2 numbers."""
        H = self.problem.matrix(gauss_newton=self.gauss_newton, dtype=dtype)
        H.diagonal().add_(self.damping)
        return H

    @cached_property
    def _factors(self) -> dict[torch.dtype, Factor]:
        return {}

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        # An explicit matrix affords float64, which a float32 model's conditioning needs.
        dtype = dtype or torch.float64
        if dtype not in self._factors:
            self._factors[dtype] = self._factor(dtype)
        return self._factors[dtype]

    def _factor(self, dtype: torch.dtype) -> Factor:
        # Directions that are flat by construction are given some curvature: solves of gradients never go there.
        gauge = self.problem.gauge if self.damping == 0 else None
        diagonal = self.problem.l2 + self.damping
        root = self.problem.root(gauss_newton=self.gauss_newton) if int((diagonal == 0).sum()) < 64 else None
        if root is not None:
            root = root if gauge is None else torch.cat([root, gauge])
            return DualFactor(root.to(dtype), diagonal.to(dtype))
        matrix = self.matrix(dtype)
        if gauge is None:
            return CholeskyFactor(matrix)
        size = float(matrix.diagonal().mean())
        return CholeskyFactor(matrix, torch.addmm(matrix, gauge.T.to(dtype), gauge.to(dtype), alpha=size))


@dataclass(frozen=True, eq=False)
class Hessian(EmpiricalCurvature):
    """The Hessian of R at theta, penalty included, plus damping * I.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> Hessian(problem, damping=1.0).matrix().diagonal()
    tensor([2., 2.], dtype=torch.float64)
    """

    @property
    def gauss_newton(self) -> bool:
        return False

    @property
    def semidefinite(self) -> bool:
        lowest, _ = self.problem.spectra.get(self.gauss_newton, (-torch.inf, None))
        return self.problem.convex or lowest + self.damping >= 0


@dataclass(frozen=True, eq=False)
class GaussNewton(EmpiricalCurvature):
    """J^T H_out J, the generalised Gauss-Newton matrix of R, penalty included, plus damping * I.

    Equal to the Hessian for models linear in their parameters, positive semi-definite for convex losses.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(2), torch.zeros(2), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> GaussNewton(problem).operator()(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1., 1.]], dtype=torch.float64)
    """

    @property
    def gauss_newton(self) -> bool:
        return True

    @property
    def semidefinite(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Dense(Curvature):
    """A given symmetric matrix (p, p) plus damping * I.

    >>> import torch
    >>> Dense(2 * torch.eye(3)).factor().solve(torch.ones(1, 3))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    explicit: Tensor
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        A = self.explicit
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"a dense curvature must have shape (p, p), got {tuple(A.shape)}")
        if not torch.allclose(A, A.T, rtol=1e-4, atol=1e-6 * float(A.abs().max())):
            raise ValueError(
                "a dense curvature must be symmetric; pass (A + A.T) / 2 if that is what you mean"
            )

    @property
    def p(self) -> int:
        return len(self.explicit)

    @property
    def dtype(self) -> torch.dtype:
        return self.explicit.dtype

    @property
    def semidefinite(self) -> bool:
        return False

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        A = self.explicit.to(dtype or self.dtype)
        return lambda rows: rows @ A + self.damping * rows

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        A = self.explicit.to(dtype or self.dtype, copy=True)
        A.diagonal().add_(self.damping)
        return CholeskyFactor(A)

    def fingerprint(self) -> str:
        return f"Dense({content_hash([self.explicit])}, damping={self.damping!r})"
