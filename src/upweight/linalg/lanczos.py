"""Eigenvalues of matrices that are known by their products alone, and what is said of a negative one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.linalg import eigh_tridiagonal
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

from ..errors import IndefiniteError
from ..types import Operator, Tensor

EXPLICIT = 2000
"""Up to this many rows the smallest eigenvalue comes from LAPACK, beyond from ARPACK."""


def lowest_eigenvalue(matrix: Float[Tensor, "p p"]) -> float:
    """The smallest eigenvalue of an explicit symmetric matrix, for the error that says how indefinite it is.

    Exact up to `EXPLICIT` rows; beyond, by Lanczos (ARPACK) to a relative accuracy of 1e-3. NaN where that does not
    converge.

    >>> round(lowest_eigenvalue(torch.tensor([[0.0, 2.0], [2.0, 0.0]])), 4)
    -2.0
    """
    if len(matrix) <= EXPLICIT:
        return float(torch.linalg.eigvalsh(matrix)[0])
    try:
        values = eigsh(matrix.double().numpy(), k=1, which="SA", tol=1e-3, return_eigenvectors=False)
    except ArpackError:
        return float("nan")
    return float(values[0])


def indefinite(lowest: float) -> IndefiniteError:
    """The error of a matrix that is no minimum's curvature (Sec. 4.2; R18), with the cure in its words; for `raise`.

    A smallest eigenvalue of 0, to rounding, is a singular matrix: data do not determine all parameters. A negative one
    is a matrix that only damping beyond it makes definite; the error names such a damping. NaN says that nobody knows.

    >>> indefinite(-0.25).eigenvalue
    -0.25
    """
    if math.isnan(lowest):
        return IndefiniteError(
            "the curvature is not positive definite, and how far it is from that could not be found: pass damping > 0, "
            "or take GaussNewton in the place of a Hessian",
            lowest,
        )
    if abs(lowest) < 1e-12 or lowest > 0:
        return IndefiniteError(
            f"the curvature is singular (smallest eigenvalue {lowest:.2e}); pass damping > 0, train with a penalty "
            "(l2 > 0), or drop columns that are zero or repeated",
            lowest,
        )
    return IndefiniteError(
        f"the curvature is indefinite: its most negative eigenvalue is {lowest:.3e}. A damping above {-lowest:.3e} "
        f"makes it definite (say damping={-2 * lowest:.1e}), or take GaussNewton in the place of a Hessian",
        lowest,
    )


def ends_of_spectrum(
    product: Operator, p: int, *, dtype: torch.dtype, device: torch.device, rounds: Iterable[int]
) -> tuple[float, float]:
    """The smallest and largest eigenvalue by the Lanczos recurrence: at most a product per round.

    It stops when both ends are known to 1 % of their size, or to 1e-5 of the largest; they are approached from inside,
    and an end whose eigenvector the random start hardly has may be taken for its neighbour. Three vectors are held;
    that the recurrence loses orthogonality repeats eigenvalues, and moves no end.

    Args:
        product: rows (k, p) -> rows (k, p).
        p: the length of a row.
        dtype: the precision of the products.
        device: where they are taken.
        rounds: as many as products may be taken; whoever waits may watch them pass.

    Returns:
        The smallest and the largest eigenvalue, in this order; (0, 0) where no product may be taken.

    >>> A = torch.diag(torch.tensor([-1.0, 2.0, 5.0]))
    >>> low, high = ends_of_spectrum(
    ...     lambda rows: rows @ A, 3, dtype=torch.float32, device=torch.device("cpu"), rounds=range(3)
    ... )
    >>> round(low, 3), round(high, 3)
    (-1.0, 5.0)
    """
    v = torch.randn(1, p, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    v, previous = v / v.norm(), torch.zeros_like(v)
    diagonal: list[float] = []
    off_diagonal: list[float] = []
    ends = np.zeros(2)
    for _ in rounds:
        w = product(v)
        if off_diagonal:
            w = w - off_diagonal[-1] * previous
        diagonal.append(float((w * v).sum()))
        w = w - diagonal[-1] * v
        residual = float(w.norm())
        values, vectors = eigh_tridiagonal(diagonal, off_diagonal)
        ends, size = values[[0, -1]], np.abs(values).max()
        error = residual * np.abs(vectors[-1, [0, -1]])
        if residual <= 1e-7 * size or bool((error <= np.maximum(0.01 * np.abs(ends), 1e-5 * size)).all()):
            break
        off_diagonal.append(residual)
        previous, v = v, w / residual
    return float(ends[0]), float(ends[1])


def leading_eigenpairs(
    product: Operator, p: int, rank: int, *, dtype: torch.dtype, device: torch.device, seed: int = 0
) -> tuple[Float[Tensor, " r"], Float[Tensor, "p r"]]:
    """The `rank` eigenvalues of largest size and their eigenvectors as columns, in float64 on the processor.

    Lanczos (SciPy's ARPACK) from a random start, to a relative accuracy of 1e-4: a few times `rank` products, one row
    each. Size means the absolute value, so that a large negative eigenvalue is among them. Values come in ARPACK's
    order, ascending.

    Args:
        product: rows (k, p) -> rows (k, p).
        p: the length of a row.
        rank: how many; fewer than p.
        dtype: the precision of the products.
        device: where they are taken.
        seed: of the random start.

    >>> A = torch.diag(torch.tensor([1.0, -6.0, 3.0, 0.5]))
    >>> values, vectors = leading_eigenpairs(
    ...     lambda rows: rows @ A, 4, 2, dtype=torch.float32, device=torch.device("cpu")
    ... )
    >>> values.round(decimals=3).tolist(), vectors.shape
    ([-6.0, 3.0], torch.Size([4, 2]))
    """

    def one(vector: Any) -> Any:
        row = torch.as_tensor(vector).reshape(1, -1).to(device, dtype)
        return product(row)[0].double().cpu().numpy()

    start = torch.randn(p, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    matrix = LinearOperator((p, p), matvec=one, dtype="float64")
    values, vectors = eigsh(matrix, k=rank, which="LM", v0=start.numpy(), tol=1e-4)
    return torch.from_numpy(values), torch.from_numpy(vectors)


def eigenvectors(matrix: Float[Tensor, "r r"]) -> Float[Tensor, "r r"]:
    """The eigenvectors of a symmetric matrix as columns, the smallest eigenvalue first: the bases of EKFAC.

    Where LAPACK fails on a matrix, or gives NaN, which happens in float32, it is decomposed in float64; the answer has
    the matrix's own precision.
    """
    try:
        vectors = torch.linalg.eigh(matrix)[1]
    except RuntimeError:  # what LAPACK raises
        vectors = torch.full_like(matrix, torch.nan)
    if bool(vectors.isfinite().all()):
        return vectors
    return torch.linalg.eigh(matrix.double())[1].to(matrix)
