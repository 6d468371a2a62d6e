"""EKFAC: the curvature of a layer as a Kronecker product of input and output bases with corrected eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .curvature import Curvature, check_damping
from .factor import KroneckerFactor
from .linear import LinearProblem
from .objective import Operator


@dataclass(frozen=True, eq=False)
class EKFAC(Curvature):
    """Eigenvalue-corrected Kronecker-factored curvature (George et al., 2018) of a linear problem.

    The bases are the eigenvectors of the mean x x^T and of the mean output Hessian W; the eigenvalues are the exact
    diagonal of the Hessian in that basis. `rows` bounds the training examples that are read (evenly spaced), for use
    as a preconditioner. Intercepts are a constant input column, with the penalty of the weights.
    Networks are not covered yet: other problems raise TypeError.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> problem = LinearProblem(torch.eye(4, 2), torch.zeros(4), torch.zeros(2), loss=Squared(), l2=0.5)
    >>> EKFAC(problem).factor().solve(torch.ones(1, 2, dtype=torch.float64))
    tensor([[1.3333, 1.3333]], dtype=torch.float64)
    """

    problem: LinearProblem
    damping: float = 0.0
    rows: int | None = None

    def __post_init__(self) -> None:
        check_damping(self.damping)
        if not isinstance(self.problem, LinearProblem):
            raise TypeError(
                f"EKFAC covers LinearProblem today, got {type(self.problem).__name__}; leave it out"
            )

    @property
    def p(self) -> int:
        return self.problem.p

    @property
    def dtype(self) -> torch.dtype:
        return self.problem.dtype

    @property
    def fast_dtype(self) -> torch.dtype:
        return self.problem.fast_dtype

    @property
    def semidefinite(self) -> bool:
        return True

    def fingerprint(self) -> str:
        return f"EKFAC({self.problem.fingerprint()}, damping={self.damping!r}, rows={self.rows})"

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        return self.factor(dtype).product

    def factor(self, dtype: torch.dtype | None = None) -> KroneckerFactor:
        return kronecker(self, dtype or self.dtype)


def kronecker(curvature: EKFAC, dtype: torch.dtype) -> KroneckerFactor:
    """The factors, from (a sample of) the training examples."""
    problem = curvature.problem
    count = min(problem.n, curvature.rows or problem.n)
    index = torch.linspace(0, problem.n - 1, count, dtype=torch.float64).long()
    sample = problem.subset(index)
    a, u, _ = (None if part is None else part.to(dtype) for part in sample._derivatives(dtype))
    assert a is not None
    blocks = [block.dense() for _, block in sample.design.blocks(4096, dtype)]
    if problem.has_intercept:
        blocks = [torch.cat([X, torch.ones(len(X), 1, dtype=dtype)], dim=1) for X in blocks]
    inputs = sum(X.T @ X for X in blocks) / count
    outputs = torch.diag(a.mean(0)) - (0 if u is None else u.T @ u / count)
    _, right = torch.linalg.eigh(inputs)
    _, left = torch.linalg.eigh(outputs)
    spread = a @ left.square() - (0 if u is None else (u @ left).square())
    start, values = 0, torch.zeros(problem.c, right.shape[0], dtype=dtype)
    for X in blocks:
        values += spread[start : start + len(X)].T @ (X @ right).square()
        start += len(X)
    l2 = float(problem.l2[: problem.c * problem.d].mean())
    values = values.clamp(min=0) / count + l2 + curvature.damping
    floor = values.max() * torch.finfo(dtype).eps
    return KroneckerFactor(left, right, values.clamp(min=float(floor)), intercept=problem.has_intercept)
