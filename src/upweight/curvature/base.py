"""Curvatures: symmetric operators on flat vectors, with their damping.

A curvature knows a problem and no solver. `operator()` prepares it for many products, `factor()` digests it into an
exact inverse. What only some can do is a capability, a typed object or None: `examples`, `outer`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Float, Int

from ..capabilities import SecondDerivative
from ..linalg.factorizations import Factor
from ..linalg.lanczos import ends_of_spectrum, leading_eigenpairs
from ..linalg.outer_products import Outer, Pairs
from ..objective import Objective
from ..runtime.progress import track
from ..types import Operator, Tensor, wide

DENSE_SPECTRUM = 64
"""Up to this many parameters eigenvalues come from the explicit matrix."""
Self = TypeVar("Self", bound="Curvature")
Mean = TypeVar("Mean", bound="ExampleMean")


def check_damping(damping: float) -> None:
    """Refuse negative or non-finite damping. Raises ValueError."""
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be a finite number >= 0, got {damping}")


class OuterInverse(ABC):
    """What a curvature offers whose inverse keeps weight matrices apart: answers without vectors of length p."""

    @abstractmethod
    def compress(self, pairs: Pairs, tolerance: float) -> Compressed:
        """A^-1 v for gradients v, as a few outer products per weight matrix, with at most that relative error."""

    @abstractmethod
    def quadratic(self, pairs: Pairs) -> Float[Tensor, " b"]:
        """v^T A^-1 v for gradients v, without forming them where they have one position."""

    @abstractmethod
    def keep(self, folder: Path) -> None:
        """Take what was gathered from the data from that folder if it is there, else gather it and write it there."""


@dataclass(frozen=True, eq=False)
class Compressed:
    """A^-1 v for k gradients v as sums of `ranks` outer products per weight matrix.

    `error` (k,) is ||difference||_A / ||A^-1 v||_A, A the curvature: by Cauchy-Schwarz a score is off by at most
    `error` times the square root of the product of both self-influences.
    """

    vectors: Outer
    ranks: tuple[int, ...]
    error: Float[Tensor, " k"]

    @property
    def verdict(self) -> str:
        """One sentence on all rows."""
        return (
            f"{len(self.error)} closed inverses, compressed to {', '.join(map(str, self.ranks))} outer products per "
            f"layer; largest relative error of that in the norm of the curvature {float(self.error.max()):.1e}"
        )


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
    @abstractmethod
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions that products can be evaluated in, from the fastest to `dtype`."""

    @property
    def fast_dtype(self) -> torch.dtype:
        """What fast products take and give: at least float32."""
        return wide(self.precisions[0])

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where products are taken."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """What of the diagonal is the same for every parameter and known: the damping, and the smallest penalty."""

    @property
    @abstractmethod
    def semidefinite(self) -> bool:
        """Whether A is known to be positive semi-definite, so that nobody needs to look."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether the inverse has a closed form that costs no p x p matrix."""

    @property
    @abstractmethod
    def examples(self) -> ExampleMean | None:
        """Estimates from a few training examples, where the curvature is a mean over them, or None."""

    @property
    @abstractmethod
    def outer(self) -> OuterInverse | None:
        """An inverse that keeps weight matrices apart, or None."""

    @abstractmethod
    def damped(self: Self, damping: float) -> Self:
        """The same matrix A with another damping."""

    @abstractmethod
    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        """Rows (k, p) -> rows (k, p), damping included, prepared once for many products."""

    @abstractmethod
    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        """The exact inverse. Raises `IndefiniteError` where there is none."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A content hash: equal curvatures give equal answers, in every process."""

    @abstractmethod
    def spectrum(self, steps: int = 100) -> tuple[float, float]:
        """The smallest and largest eigenvalue, damping included: at most `steps` products."""

    def eigenpairs(self, rank: int, seed: int = 0) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
        """The `rank` eigenvalues of largest size, damping included, largest first, and their eigenvectors as rows.

        Lanczos from a random start drawn from `seed`, to a relative accuracy of 1e-4; float64.
        """
        rank = min(rank, self.p)
        if self.p <= max(DENSE_SPECTRUM, 2 * rank):
            values, vectors = torch.linalg.eigh(explicit(self))
        else:
            product, dtype = self.operator(self.fast_dtype), self.fast_dtype
            values, vectors = leading_eigenpairs(
                product, self.p, rank, dtype=dtype, device=self.device, seed=seed
            )
        best = values.abs().argsort(descending=True)[:rank]
        return values[best].to(self.device), vectors.T[best].to(self.device)


class ExampleMean(Curvature):
    """A curvature that is a mean over training examples, so that a few of them estimate it."""

    problem: Objective

    @property
    def examples(self) -> ExampleMean:
        return self

    @property
    @abstractmethod
    def second(self) -> SecondDerivative:
        """The matrix without damping."""

    @abstractmethod
    def of(self: Mean, problem: Objective) -> Mean:
        """The same matrix, with the same damping, of another problem."""

    @abstractmethod
    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix, damping included; p^2 numbers."""

    @abstractmethod
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        """Row by row the product with the curvature of that row's own examples: unbiased for the operator."""

    @abstractmethod
    def sample(self, k: int, seed: int = 0) -> Float[Tensor, "k p"]:
        """Random rows x whose covariance is this matrix A, damping and penalty included: that of A^-1 x is A^-1.

        Raises TypeError for a Hessian that is not a Gauss-Newton matrix: it has no root.
        """


def explicit(curvature: Curvature) -> Float[Tensor, "p p"]:
    """The matrix by p products, on the processor in float64."""
    dtype = curvature.fast_dtype
    product = curvature.operator(dtype)
    return product(torch.eye(curvature.p, dtype=dtype, device=curvature.device)).double().cpu()


def look_at_spectrum(curvature: Curvature, steps: int) -> tuple[float, float]:
    """The ends of the spectrum, of few parameters from the explicit matrix, else by Lanczos."""
    if curvature.p <= DENSE_SPECTRUM:
        values = torch.linalg.eigvalsh(explicit(curvature))
        return float(values[0]), float(values[-1])
    dtype = curvature.fast_dtype
    rounds = track(range(steps), "spectrum", steps)
    product = curvature.operator(dtype)
    return ends_of_spectrum(product, curvature.p, dtype=dtype, device=curvature.device, rounds=rounds)


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
