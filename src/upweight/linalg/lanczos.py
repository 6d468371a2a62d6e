"""Eigenvalues of matrices that are known by their products alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from scipy.sparse.linalg import ArpackError, eigsh

from ..errors import IndefiniteError
from ..types import Tensor


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
