"""Eigenvalues of matrices that are known by their products alone, and what is said of a negative one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ..errors import IndefiniteError
from ..types import Operator, Tensor


def lowest_eigenvalue(matrix: Float[Tensor, "p p"]) -> float:
    """The smallest eigenvalue of an explicit matrix; Lanczos above 2,000 rows."""
    if len(matrix) <= 2000:
        return float(torch.linalg.eigvalsh(matrix)[0])
    try:
        values = eigsh(matrix.double().numpy(), k=1, which="SA", tol=1e-3, return_eigenvectors=False)
    except ArpackError:
        return float("nan")
    return float(values[0])


def indefinite(lowest: float) -> IndefiniteError:
    """The error of a matrix that has no inverse as a minimum's curvature, with the cure."""
    if abs(lowest) < 1e-12 or lowest > 0:
        return IndefiniteError(
            f"the curvature is singular (smallest eigenvalue {lowest:.2e}); pass damping > 0, train with a penalty "
            "(l2 > 0), or drop columns that are zero or repeated",
            lowest,
        )
    return IndefiniteError(
        f"the curvature is indefinite: its most negative eigenvalue is {lowest:.3e}. A damping above {-lowest:.3e} "
        f"makes it definite (say damping={-2 * lowest:.1e}), or use GaussNewton",
        lowest,
    )


def ends_of_spectrum(
    product: Operator, p: int, *, dtype: torch.dtype, device: torch.device, rounds: Iterable[int]
) -> tuple[float, float]:
    """The smallest and largest eigenvalue by the Lanczos recurrence: at most a product per round.

    It stops when both ends are known to 1 % of their size, or to 1e-5 of the largest; they are approached from inside.
    Three vectors are held; that the recurrence loses orthogonality repeats eigenvalues, and moves no end.

    Args:
        product: rows (k, p) -> rows (k, p).
        p: the length of a row.
        dtype: the precision of the products.
        device: where they are taken.
        rounds: as many as products may be taken; whoever waits may watch them pass.
    """
    v = torch.randn(1, p, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    v, before = v / v.norm(), torch.zeros_like(v)
    diagonal: list[float] = []
    beside: list[float] = []
    ends = np.zeros(2)
    for _ in rounds:
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


def leading_eigenpairs(
    product: Operator, p: int, rank: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[Float[Tensor, " r"], Float[Tensor, "p r"]]:
    """The `rank` eigenvalues of largest size and their eigenvectors as columns, in float64 on the processor.

    Lanczos (SciPy's ARPACK) from a random start, to a relative accuracy of 1e-4.

    Args:
        product: rows (k, p) -> rows (k, p).
        p: the length of a row.
        rank: how many; fewer than p.
        dtype: the precision of the products.
        device: where they are taken.
        seed: of the random start.
    """

    def one(vector: Any) -> Any:
        row = torch.as_tensor(vector).reshape(1, -1).to(device, dtype)
        return product(row)[0].double().cpu().numpy()

    start = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = LinearOperator((p, p), matvec=one, dtype="float64")
    values, vectors = eigsh(matrix, k=rank, which="LM", v0=start.numpy(), tol=1e-4)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def eigenvectors(matrix: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """The eigenvectors of a symmetric matrix as columns; in float64 where LAPACK fails on it in its own precision."""
    try:
        vectors = torch.linalg.eigh(matrix)[1]
    except RuntimeError:  # what LAPACK raises
        vectors = torch.full_like(matrix, torch.nan)
    if bool(vectors.isfinite().all()):
        return vectors
    return torch.linalg.eigh(matrix.double())[1].to(matrix)
