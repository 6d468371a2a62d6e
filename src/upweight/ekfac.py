"""EKFAC: the curvature of a layer as a Kronecker product of input and output bases with corrected eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from .curvature import OfProblem
from .factor import KroneckerFactor
from .linear import LinearProblem
from .objective import Operator
from .types import Tensor


@dataclass(frozen=True, eq=False)
class EKFAC(OfProblem):
    """Eigenvalue-corrected Kronecker-factored curvature (George et al., 2018) of a linear problem.

    The bases are the eigenvectors of the mean x x^T and of the mean output Hessian W; the eigenvalues are the exact
    diagonal of the Hessian in that basis. `rows` bounds the training examples that are read (evenly spaced), for use
    as a preconditioner. Of the `leading` input directions of largest variance the curvature is kept whole, across
    directions and outputs: (c leading)^2 numbers and one Cholesky factor, which a preconditioner pays back severalfold.
    Intercepts are a constant input column, with the penalty of the weights.
    Networks are not covered yet: other problems raise TypeError.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(4, 2), torch.zeros(4), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> EKFAC(problem).factor().solve(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1.3333, 1.3333]], dtype=torch.float64)
    """

    problem: LinearProblem
    rows: int | None = None
    leading: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.leading < 0 or (self.rows is not None and self.rows < 1):
            raise ValueError(f"leading must be >= 0 and rows >= 1, got {self.leading} and {self.rows}")
        if not isinstance(self.problem, LinearProblem):
            raise TypeError(
                f"EKFAC covers LinearProblem today, got {type(self.problem).__name__}; leave it out"
            )

    @property
    def semidefinite(self) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"EKFAC({self.problem.fingerprint()}, damping={self.damping!r}, rows={self.rows}, " + (
            f"leading={self.leading})"
        )

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        return self.factor(dtype).product

    def factor(self, dtype: torch.dtype | None = None) -> KroneckerFactor:
        return kronecker(self, dtype or self.dtype)


def kronecker(curvature: EKFAC, dtype: torch.dtype) -> KroneckerFactor:
    """The factors, from (a sample of) the training examples; below the problem's precision, read in its fastest."""
    problem = curvature.problem
    dtype = dtype if dtype == problem.dtype else problem.precisions[0]
    count = min(problem.n, curvature.rows or problem.n)
    index = torch.linspace(0, problem.n - 1, count, dtype=torch.float64).long()
    sample = problem.subset(index)
    _, a, u, _ = sample._derivatives(dtype)
    blocks = [block.dense() for _, block in sample.design.blocks(4096, dtype)]
    if problem.has_intercept:
        blocks = [torch.cat([X, X.new_ones(len(X), 1)], dim=1) for X in blocks]
    inputs = sum((X.T @ X).to(a.dtype) for X in blocks) / count
    outputs = torch.diag(a.mean(0)) - (0 if u is None else u.T @ u / count)
    right = torch.linalg.eigh(inputs)[1].flip(1)  # the largest variance first
    left = torch.linalg.eigh(outputs)[1]
    spread = a @ left.square() - (0 if u is None else (u @ left).square())
    r = min(curvature.leading, right.shape[1])
    values = torch.zeros(problem.c, right.shape[0], dtype=a.dtype)
    block = torch.zeros(problem.c, r, problem.c, r, dtype=a.dtype)
    start = 0
    for X in blocks:
        part = slice(start, start + len(X))
        rotated = (X @ right.to(X.dtype)).to(a.dtype)
        values += spread[part].T @ rotated.square()
        if r:
            _add_leading(block, rotated[:, :r], a[part], None if u is None else u[part])
        start += len(X)
    added = float(problem.l2[: problem.c * problem.d].mean()) + curvature.damping
    values = values.clamp(min=0) / count + added
    floor = values.max() * torch.finfo(a.dtype).eps
    whole = (block / count).view(problem.c * r, problem.c * r)
    whole.diagonal().add_(max(added, float(floor)))
    return KroneckerFactor(
        left, right, values.clamp(min=float(floor)), whole, intercept=problem.has_intercept
    )


def _add_leading(
    block: Float[Tensor, "c r c r"],
    P: Float[Tensor, "b r"],
    a: Float[Tensor, "b c"],
    u: Float[Tensor, "b c"] | None,
) -> None:
    """Add sum_i W_i (x) p_i p_i^T, output by output; W_i = diag(a) - u u^T."""
    c = a.shape[1]
    for i in range(c):
        # Difference first, product second: p - p^2 cancels where a probability is near one.
        last = c if u is not None else i + 1
        W = torch.zeros(len(a), last - i, dtype=a.dtype) if u is None else -u[:, i, None] * u[:, i:]
        W[:, 0] += a[:, i]
        pairs = P.T @ (W[:, :, None] * P[:, None]).flatten(1)
        block[i, :, i:last] += pairs.view(len(pairs), last - i, -1)
        block[i:last, :, i] = block[i, :, i:last].permute(1, 2, 0).clone()
