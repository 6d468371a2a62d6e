"""Explicit curvatures with known eigenvalues, and the curvature of a small problem beside its matrix."""

import torch

from tests.support.cases import Case, draw
from upweight import Dense, Hessian


def eye(p: int) -> torch.Tensor:
    """The identity (p, p) in float64."""
    return torch.eye(p, dtype=torch.float64)


def with_eigenvalues(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues, in float64, in a random basis."""
    Q = torch.linalg.qr(draw(len(values), len(values), seed=seed)).Q
    A = (Q * values.double()) @ Q.T
    return (A + A.T) / 2


def clustered(p: int, dtype: torch.dtype = torch.float64) -> Dense:
    """Eigenvalues of all sizes from 1e-3 to 1, as a damped network has them."""
    return Dense(with_eigenvalues(torch.logspace(-3, 0, p)).to(dtype))


def damped(case: Case) -> tuple[Hessian, torch.Tensor]:
    """A little damping, 1e-5 of the largest eigenvalue, and the explicit matrix."""
    H = case.hessian(case.problem.theta)
    damping = 1e-5 * float(torch.linalg.eigvalsh(H)[-1])
    return Hessian(case.problem, damping), H + damping * eye(case.p)


def solved(A: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """A^-1 v for every row v, by torch.linalg.solve."""
    return torch.linalg.solve(A, rows.T).T


def relative(A: torch.Tensor, value: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """||v - A s|| / ||v|| of every row."""
    return (rows - value @ A).norm(dim=1) / rows.norm(dim=1)
