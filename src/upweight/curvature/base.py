"""Curvatures: symmetric matrices on flat vectors, known by their products, with their damping.

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

from ..capabilities import SecondDerivative, Stages
from ..linalg.coordinates import Coordinates
from ..linalg.factorizations import Factor
from ..linalg.lanczos import ends_of_spectrum, leading_eigenpairs
from ..linalg.outer_products import Outer, Pairs
from ..objective import Objective
from ..runtime.progress import track
from ..types import Operator, Tensor, wide
from .eigenbases import Eigenbases

DENSE_SPECTRUM = 64
"""Up to this many parameters eigenvalues come from the explicit matrix."""
Self = TypeVar("Self", bound="Curvature")
Mean = TypeVar("Mean", bound="ExampleMean")


def check_damping(damping: float) -> None:
    """Refuse damping that is negative or not finite.

    Raises:
        ValueError: with the number that arrived.
    """
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be a finite number >= 0, got {damping}")


class OuterInverse(ABC):
    """A curvature's inverse that keeps weight matrices apart, so that answers need no vectors of length p.

    Gradients and answers are outer products (`Pairs`). `EKFAC` has such an inverse; self-influence uses it, and scores.
    """

    @property
    @abstractmethod
    def sums(self) -> bool:
        """Whether its answers are sums of outer products, which `compress` needs."""

    @abstractmethod
    def compress(self, pairs: Pairs, tolerance: float) -> Compressed:
        """The answers A^-1 v for gradients v, as a few outer products per weight matrix.

        Args:
            pairs: k gradients v as outer products.
            tolerance: the largest relative error of an answer in the norm of A, between 0 and 1.

        Raises:
            ValueError: for another tolerance, or where the inverse is no sum of outer products.
        """

    @abstractmethod
    def quadratic(self, pairs: Pairs) -> Float[Tensor, " b"]:
        """v^T A^-1 v (b,) of b gradients v, which are not formed where a layer is used once per example."""

    @abstractmethod
    def eigenbases(self) -> Eigenbases:
        """The bases in which it is diagonal, layer by layer, for an index; ValueError where there are none."""

    @abstractmethod
    def keep(self, folder: Path) -> None:
        """Take what was gathered from the training data from a folder if it is there, else gather and write it.

        A job that was cut off goes on from it. The file is named by a content hash, so that no other model finds it.
        """


@dataclass(frozen=True, eq=False)
class Compressed:
    """The answers A^-1 v for k gradients v as sums of a few outer products per weight matrix, with their error.

    By Cauchy-Schwarz a score g . A^-1 v is off by at most `error` times sqrt(g^T A^-1 g) sqrt(v^T A^-1 v), the root of
    the product of both self-influences.

    Args:
        vectors: the answers as outer products.
        ranks: how many outer products each weight matrix has.
        error: ||difference||_A / ||A^-1 v||_A of each answer (k,), A the curvature.
    """

    vectors: Outer
    ranks: tuple[int, ...]
    error: Float[Tensor, " k"]

    @property
    def verdict(self) -> str:
        """One sentence on all answers: how many there are, how far they are compressed, the largest error of that."""
        return (
            f"{len(self.error)} closed inverses, compressed to {', '.join(map(str, self.ranks))} outer products per "
            f"layer; largest relative error of that in the norm of the curvature {float(self.error.max()):.1e}"
        )


class Curvature(ABC):
    """A symmetric matrix A + damping * I on flat vectors (p,), which answers what solvers ask of it.

    A is the Hessian of the objective R, something near it, or a matrix of your own (`Dense`). Damping belongs to the
    curvature, so that all solvers answer the same question. A curvature never changes: `damped` gives another one.
    """

    damping: float
    """What is added to the diagonal, >= 0: the answers are those of a penalty that is larger by so much."""
    coordinates: Coordinates = Coordinates()
    """Coordinates in which parameters have comparable units, as far as anything is known of that."""
    floor: Float[Tensor, " p"] | None = None
    """A diagonal matrix (p,) that this one is known to exceed: it bounds the error of an answer. None: unknown."""
    adjoint: bool = True
    """Whether it is the matrix that measures are solved with, and not its transpose, which moves parameters."""
    relative: float = 0.0
    """What is added to each layer's own diagonal, as a share of its mean eigenvalue: EKFAC alone knows that."""

    @property
    @abstractmethod
    def p(self) -> int:
        """The number of parameters: rows and columns of the matrix."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The precision of right-hand sides and answers, in which residuals are judged."""

    @property
    @abstractmethod
    def precisions(self) -> tuple[torch.dtype, ...]:
        """The precisions that products can be evaluated in, from the fastest to `dtype`.

        Solvers begin with the first and end with the last: low precision finds most of an answer at half the price.
        """

    @property
    def fast_dtype(self) -> torch.dtype:
        """The precision of the rows that the fastest products take and give: that of the products, at least float32."""
        return wide(self.precisions[0])

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which products are taken, and on which rows are expected."""

    @property
    @abstractmethod
    def shift(self) -> float:
        """What of the diagonal is known and the same for every parameter: the damping, and the smallest penalty of all.

        For a positive semi-definite A no eigenvalue is below it.
        """

    @property
    @abstractmethod
    def semidefinite(self) -> bool:
        """Whether the matrix, damping included, is known to have no negative eigenvalue, so that nobody needs to look.

        False says nothing about A: solvers then look at its spectrum.
        """

    @property
    def closed(self) -> bool:
        """Whether the inverse has a closed form that costs no p x p matrix, so that it can precondition at any size."""
        return False

    @property
    def examples(self) -> ExampleMean | None:
        """The curvature as a mean over training examples, which a few of them estimate, or None where it is none."""
        return None

    @property
    def outer(self) -> OuterInverse | None:
        """The inverse that keeps weight matrices apart, for answers as outer products, or None where there is none."""
        return None

    @property
    def stages(self) -> Stages | None:
        """What solves it stage by stage where it is triangular (`Stagewise`), or None where it is symmetric."""
        return None

    @property
    def transposed(self: Self) -> Self:
        """The transposed matrix: itself, where it is symmetric."""
        return self

    @abstractmethod
    def damped(self: Self, damping: float) -> Self:
        """A copy with another damping of the same matrix A; what was gathered from the data is shared.

        Args:
            damping: the new damping, in place of the old one and not on top of it.

        Raises:
            ValueError: for negative or non-finite damping.
        """

    def scaled(self: Self, factor: float) -> Self:
        """A copy with its damping, also one that is relative, multiplied; what was gathered from the data is shared."""
        return self.damped(factor * self.damping)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What it covers and how, where that needs saying among the settings: one sentence each."""
        return ()

    @abstractmethod
    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        """The matrix as a function, rows (k, p) -> rows (k, p), damping included: prepared once, for many products.

        Args:
            dtype: the precision of the products, one of `precisions`; None: `dtype`. Rows come and go at least in
                float32.
        """

    @abstractmethod
    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        """The exact inverse: a factorisation, kept for the next question.

        Args:
            dtype: the precision of the factor; None: the best that the matrix affords, float64 for most.

        Raises:
            IndefiniteError: where A, damping included, is not positive definite, with its lowest eigenvalue.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """A content hash of all that answers depend on: equal hashes mean equal answers, in every process."""

    def spectrum(self, steps: int = 100) -> tuple[float, float]:
        """The smallest and largest eigenvalue, damping included.

        Of up to 64 parameters from the explicit matrix, else by Lanczos, to 1 % of each or 1e-5 of the largest.

        Args:
            steps: products that are taken at most.
        """
        return extreme_eigenvalues(self, steps)

    def eigenpairs(self, rank: int, seed: int = 0) -> tuple[Float[Tensor, " r"], Float[Tensor, "r p"]]:
        """The eigenvalues of largest size, damping included, largest first, and their eigenvectors as rows.

        By Lanczos (SciPy's ARPACK) to a relative accuracy of 1e-4, or from the explicit matrix where it is small.

        Args:
            rank: how many; p where it is larger.
            seed: of the random start.

        Returns:
            Eigenvalues (r,), of which indefinite matrices have negative ones, and eigenvectors (r, p), both float64.

        >>> import torch
        >>> from upweight import Dense
        >>> Dense(torch.diag(torch.tensor([1.0, -3.0])), damping=0.5).eigenpairs(rank=1)[0]
        tensor([-2.5000], dtype=torch.float64)
        """
        rank = min(rank, self.p)
        if self.p <= max(DENSE_SPECTRUM, 2 * rank):
            values, vectors = torch.linalg.eigh(explicit_matrix(self))
        else:
            product, dtype = self.operator(self.fast_dtype), self.fast_dtype
            values, vectors = leading_eigenpairs(
                product, self.p, rank, dtype=dtype, device=self.device, seed=seed
            )
        best = values.abs().argsort(descending=True)[:rank]
        return values[best].to(self.device), vectors.T[best].to(self.device)


class ExampleMean(Curvature):
    """A curvature that is a mean over training examples plus the penalty, so that a few examples estimate it.

    `LiSSA` needs these estimates, and draws from the posterior (`sample`) as well. `Hessian` and `GaussNewton` are
    such means.
    """

    problem: Objective

    @property
    def examples(self) -> ExampleMean:
        return self

    @property
    @abstractmethod
    def undamped(self) -> SecondDerivative:
        """The matrix A itself, penalty included, without damping: what the problem calls its second derivative."""

    @abstractmethod
    def of(self: Mean, problem: Objective) -> Mean:
        """A curvature of the same kind and damping for another problem, say one without some training examples."""

    @abstractmethod
    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        """The explicit matrix (p, p), damping included: p^2 numbers, and for networks a pass over the data per output.

        Args:
            dtype: the precision; None: the problem's own.
        """

    @abstractmethod
    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        """The product of every row with the curvature of examples of its own, damping included: unbiased.

        Args:
            rows: k vectors (k, p).
            index: b training examples for each of them (k, b), drawn uniformly and with repetition.
        """

    @abstractmethod
    def sample(self, k: int, seed: int = 0) -> Float[Tensor, "k p"]:
        """Random rows x (k, p) with mean 0 whose covariance is this matrix, damping and penalty included.

        The covariance of A^-1 x is then A^-1: draws from the Laplace approximation. The cost is that of k gradients.

        Args:
            k: how many rows.
            seed: of the random numbers.

        Raises:
            TypeError: for a Hessian that is not a Gauss-Newton matrix, which has no root.
        """


def explicit_matrix(curvature: Curvature) -> Float[Tensor, "p p"]:
    """The matrix (p, p) of a curvature, damping included, by p products: on the processor in float64, for small p."""
    dtype = curvature.fast_dtype
    product = curvature.operator(dtype)
    return product(torch.eye(curvature.p, dtype=dtype, device=curvature.device)).double().cpu()


def extreme_eigenvalues(curvature: Curvature, steps: int) -> tuple[float, float]:
    """The smallest and largest eigenvalue of a curvature, from its explicit matrix if it is small, else by Lanczos.

    Args:
        curvature: any curvature; its damping is included.
        steps: products that Lanczos takes at most.
    """
    if curvature.p <= DENSE_SPECTRUM:
        values = torch.linalg.eigvalsh(explicit_matrix(curvature))
        return float(values[0]), float(values[-1])
    dtype = curvature.fast_dtype
    rounds = track(range(steps), "spectrum", steps)
    product = curvature.operator(dtype)
    return ends_of_spectrum(product, curvature.p, dtype=dtype, device=curvature.device, rounds=rounds)


@dataclass(frozen=True, eq=False)
class ProblemCurvature(Curvature):
    """A curvature of a problem's objective R, penalty included, in the problem's size and precisions.

    Args:
        problem: the problem whose objective it is.
        damping: what is added to the diagonal, >= 0.

    Raises:
        ValueError: for negative or non-finite damping.
    """

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
