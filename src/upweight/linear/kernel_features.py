"""Kernel machines as linear problems: points become features whose inner products are the kernel.

With the kernel matrix of the training points K = U Lambda U^T their features are Phi = U Lambda^(1/2), since then
Phi Phi^T = K, and a new point's are phi(x) = k(x, X) U Lambda^(-1/2). A decision function sum_i a_i k(x_i, x) + b is
phi(x) . v + b with v = Phi^T a, and its norm in the kernel's space is ||v||: everything else is a `LinearProblem`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Float
from scipy import sparse

LARGE = 8000
"""Above this many points the kernel matrix is not formed where a rank is given: landmarks stand for the points."""
LANDMARKS_PER_RANK = 4
ROUNDING = 1e-8
"""Asymmetry and negative eigenvalues up to this share of the largest are rounding."""

Points: TypeAlias = np.ndarray | sparse.sparray | sparse.spmatrix
"""Points as rows, dense or SciPy-sparse; a precomputed kernel has rows of kernel values in their place."""
Kernel: TypeAlias = Callable[[Points, Points], np.ndarray]
"""Points (a, ...) and points (b, ...) -> their kernel values (a, b)."""


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """phi(x) = k(x, landmarks) M: features whose inner products are a kernel, or close to it (R21).

    With them a kernel machine is a `LinearProblem`. `FeatureMap.of` finds M for training points.

    Args:
        kernel: the kernel k, points (a, ...) and points (b, ...) -> (a, b).
        landmarks: q points, the training points or a sample of them.
        M: what turns kernel values with the landmarks into features, (q, r).

    >>> kernel = lambda A, B: (A @ B.T) ** 2
    >>> X = np.array([[1.0], [2.0]])
    >>> phi = FeatureMap.of(kernel, X)(X)
    >>> (phi @ phi.T).round(6).tolist()
    [[1.0, 4.0], [4.0, 16.0]]
    """

    kernel: Kernel
    landmarks: Points
    M: Float[np.ndarray, "q r"]

    @classmethod
    def of(
        cls, kernel: Kernel, X: Points, *, rank: int | None = None, seed: int = 0, large: int = LARGE
    ) -> FeatureMap:
        """The features of training points: all of them, exact, or the leading ones, the best of their rank.

        With a rank and more than `large` points the n x n matrix is never formed: 4 * rank landmarks drawn at random
        span the features (Nystroem). The cost is an eigendecomposition of the kernel matrix of the landmarks.

        Args:
            kernel: points (a, ...) and points (b, ...) -> their kernel values (a, b).
            X: the n training points.
            rank: how many leading features are kept; None keeps all that are not numerically zero.
            seed: of the landmarks that are drawn.
            large: the number of points above which landmarks are drawn, where a rank is given.

        Raises:
            ValueError: for a rank outside 1..n, and unless the kernel matrix is square, symmetric and positive
                semi-definite, all up to rounding.
        """
        n = X.shape[0]
        if rank is not None and not 1 <= rank <= n:
            raise ValueError(f"rank must lie in 1..{n}, the number of training points, got {rank}")
        landmarks = X
        if rank is not None and n > max(large, LANDMARKS_PER_RANK * rank):
            rng = np.random.default_rng(seed)
            landmarks = X[np.sort(rng.choice(n, LANDMARKS_PER_RANK * rank, replace=False))]
        values, U = eigenpairs(kernel(landmarks, landmarks))
        values, U = values[:rank], U[:, :rank]
        return cls(kernel, landmarks, U / np.sqrt(values))

    @property
    def of_kernel(self) -> bool:
        """Whether the leading ones of a chosen rank can stand for all: yes."""
        return True

    def __call__(self, X: Points) -> Float[np.ndarray, "m r"]:
        """The features (m, r) of m points, the training points or new ones."""
        return self.kernel(X, self.landmarks) @ self.M

    def named(self, names: tuple[str, ...] | None) -> tuple[str, ...]:
        """What the features are called by number: they are no columns of anybody's, whose `names` say nothing here."""
        return tuple(f"feature {j} of the kernel" for j in range(self.M.shape[1]))


def eigenpairs(K: np.ndarray) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "n r"]]:
    """The positive eigenvalues of a kernel matrix, largest first, and their vectors; numerically zero ones are dropped.

    Raises ValueError where K is not square, not symmetric or not positive semi-definite.

    >>> eigenpairs(np.diag([1.0, 4.0, 0.0]))[0].tolist()
    [4.0, 1.0]
    """
    K = np.asarray(K, dtype=np.float64)
    if K.ndim != 2 or K.shape[0] != K.shape[1]:
        raise ValueError(
            f"the kernel matrix of the training points must be square, (n, n), got shape {K.shape}"
        )
    if not np.isfinite(K).all():
        raise ValueError("the kernel matrix has a NaN or infinity")
    asymmetry = float(np.abs(K - K.T).max())
    if asymmetry > ROUNDING * float(np.abs(K).max()):
        raise ValueError(f"the kernel matrix is not symmetric: K and its transpose differ by {asymmetry:.2e}")
    values, U = np.linalg.eigh((K + K.T) / 2)
    largest = float(np.abs(values).max())
    if values[0] < -ROUNDING * largest:
        raise ValueError(
            f"the kernel matrix is not positive semi-definite: its most negative eigenvalue is {values[0]:.3e} (the "
            f"largest is {largest:.3e}), so that no features have it as their inner products and training it was "
            "no convex problem; use a positive semi-definite kernel (linear, rbf, poly with coef0 >= 0)"
        )
    kept = np.flatnonzero(values > len(K) * np.finfo(np.float64).eps * largest)[::-1]
    if len(kept) == 0:
        raise ValueError("the kernel matrix is zero: all points are the same to it")
    return values[kept], U[:, kept]
