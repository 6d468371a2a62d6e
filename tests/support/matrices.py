"""Explicit matrices in float64, and every factorisation beside the matrix that it stands for."""

from collections.abc import Callable
from fractions import Fraction

import torch

from tests.support.cases import draw
from upweight.linalg.dual_factor import DualFactor
from upweight.linalg.factorizations import CholeskyFactor, DiagonalFactor, Factor
from upweight.linalg.kronecker import BlocksFactor, KroneckerFactor
from upweight.linalg.low_rank import LowRankFactor, UpdatedFactor

Made = tuple[Factor, torch.Tensor]
SMALLEST = 1e-5
"""Of the eigenvalues of all positive definite matrices here; the largest is 1."""


def orthonormal(r: int, p: int, seed: int = 0) -> torch.Tensor:
    """r orthonormal rows of length p."""
    return torch.linalg.qr(draw(p, r, seed=seed))[0].T.contiguous()


def with_eigenvalues(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues, in a random basis."""
    Q = orthonormal(len(values), len(values), seed)
    return Q.T @ torch.diag(values.double()) @ Q


def positive_definite(p: int, seed: int = 0) -> torch.Tensor:
    """A matrix whose eigenvalues fall from 1 to `SMALLEST` by equal factors."""
    return with_eigenvalues(SMALLEST ** torch.linspace(0, 1, p, dtype=torch.float64), seed)


def exact_inverse(U: torch.Tensor, D: torch.Tensor) -> torch.Tensor:
    """(U^T U + diag(D))^-1 by Gauss-Jordan elimination on fractions, rounded at the end."""
    columns = [[Fraction(x) for x in column] for column in U.T.tolist()]
    p = len(columns)
    A = [[sum((x * y for x, y in zip(a, b, strict=True)), Fraction()) for b in columns] for a in columns]
    for i, d in enumerate(D.tolist()):
        A[i] = [*A[i], *(Fraction(int(i == j)) for j in range(p))]
        A[i][i] += Fraction(d)
    for i in range(p):
        A[i] = [x / A[i][i] for x in A[i]]
        for j in range(p):
            if j != i:
                A[j] = [y - A[j][i] * x for x, y in zip(A[i], A[j], strict=True)]
    return torch.tensor([[float(x) for x in row[p:]] for row in A], dtype=torch.float64)


def kronecker(
    c: int, e: int, leading: int, *, intercept: bool, seed: int = 0
) -> tuple[KroneckerFactor, torch.Tensor]:
    """A Kronecker factor and its matrix, entry by entry as the class describes it."""
    left, right = orthonormal(c, c, seed).T, orthonormal(e, e, seed + 1).T
    values = SMALLEST ** torch.rand(c, e, generator=torch.Generator().manual_seed(seed)).double()
    block = positive_definite(c * leading, seed + 2) if leading else torch.zeros(0, 0, dtype=torch.float64)
    whole = torch.einsum("ci,di,ej,fj,ij->cedf", *[left] * 2, *[right[:, leading:]] * 2, values[:, leading:])
    inner = block.view(c, leading, c, leading)
    whole += torch.einsum("er,crds,fs->cedf", right[:, :leading], inner, right[:, :leading])
    order = torch.arange(c * e).view(c, e)
    if intercept:  # flat vectors hold the last input's weights, which are the intercepts, after all others
        order = torch.cat([order[:, :-1].flatten(), order[:, -1]])
    flat = whole.reshape(c * e, c * e)[order.flatten()][:, order.flatten()]
    return KroneckerFactor(left, right, values, block, intercept=intercept), flat


def dual(r: int, p: int, unpenalised: int, seed: int = 0) -> tuple[DualFactor, torch.Tensor]:
    """A dual factor, of whose p entries some scattered ones are `unpenalised`."""
    U, D = draw(r, p, seed=seed), SMALLEST ** torch.linspace(0, 1, p, dtype=torch.float64)
    D[torch.randperm(p, generator=torch.Generator().manual_seed(seed))[:unpenalised]] = 0
    return DualFactor(U, D), U.T @ U + torch.diag(D)


def low_rank(r: int, p: int, seed: int = 0) -> tuple[LowRankFactor, torch.Tensor]:
    """A low-rank factor: the smallest of its values belongs to all directions that it has no vector for."""
    V, values = orthonormal(r, p, seed), SMALLEST ** torch.linspace(1, 0, r, dtype=torch.float64)
    beside = torch.eye(p, dtype=torch.float64) - V.T @ V
    return LowRankFactor(V, values), V.T @ torch.diag(values) @ V + float(values.min()) * beside


def blocks() -> tuple[BlocksFactor, torch.Tensor]:
    """Two weight matrices and some entries outside both, scattered over flat vectors."""
    parts = [kronecker(2, 3, 1, intercept=True), kronecker(3, 2, 0, intercept=False, seed=5)]
    sizes = [len(A) for _, A in parts]
    diagonal = SMALLEST ** torch.linspace(0, 1, 3, dtype=torch.float64)
    p = sum(sizes) + len(diagonal)
    *places, rest = torch.randperm(p, generator=torch.Generator().manual_seed(0)).split(
        [*sizes, len(diagonal)]
    )
    whole = torch.zeros(p, p, dtype=torch.float64)
    for index, A in zip([*places, rest], [*(A for _, A in parts), torch.diag(diagonal)], strict=True):
        whole[index[:, None], index] = A
    layers = [(index, factor) for index, (factor, _) in zip(places, parts, strict=True)]
    return BlocksFactor(layers, (rest, DiagonalFactor(diagonal)), p, torch.float64), whole


def cholesky() -> Made:
    """A plain Cholesky factor."""
    A = positive_definite(9)
    return CholeskyFactor(A), A


def diagonal() -> Made:
    """A diagonal factor."""
    values = SMALLEST ** torch.linspace(0, 1, 9, dtype=torch.float64)
    return DiagonalFactor(values), torch.diag(values)


def updated(base: Made, q: int = 2) -> Made:
    """A factor with q rows more."""
    factor, A = base
    C = draw(q, len(A), seed=7)
    return UpdatedFactor(factor, C), A + C.T @ C


FACTORS: dict[str, Callable[[], Made]] = {
    "cholesky": cholesky,
    "diagonal": diagonal,
    "dual": lambda: dual(4, 9, 0),
    "dual, 1 unpenalised": lambda: dual(4, 9, 1),
    "dual, 3 unpenalised": lambda: dual(4, 9, 3),
    "low rank": lambda: low_rank(3, 9),
    "low rank, all directions": lambda: low_rank(6, 6),
    "updated": lambda: updated(cholesky()),
    "updated dual": lambda: updated(dual(4, 9, 1), q=1),
    "kronecker": lambda: kronecker(3, 4, 0, intercept=False),
    "kronecker, intercept": lambda: kronecker(3, 4, 0, intercept=True),
    "kronecker, leading": lambda: kronecker(3, 4, 2, intercept=False),
    "kronecker, leading, intercept": lambda: kronecker(3, 4, 2, intercept=True),
    "kronecker, all leading": lambda: kronecker(2, 3, 3, intercept=True),
    "blocks": blocks,
}
"""A factor and its matrix, by name."""
