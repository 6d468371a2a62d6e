"""Compressed answers of EKFAC: inverse times gradient as a few outer products per layer, never formed as a vector.

A gradient of one position is d a^T. In the eigenbases the inverse multiplies it entrywise by M = 1 / (Lambda + damping)
and a truncated M = sum_R u_R v_R^T makes sum_R (d u_R)(a v_R)^T of it: a score then costs R (r + s) operations in place
of r s. The gradient of several positions is truncated itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float

from ..linalg.kronecker import BlocksFactor, KroneckerFactor
from ..linalg.outer_products import Outer, Pair, Pairs, WeightLayout
from ..types import Tensor
from .base import Compressed


def compress(factor: BlocksFactor, layout: WeightLayout, pairs: Pairs, tolerance: float) -> Compressed:
    """The answers A^-1 v by the smallest ranks, layer by layer, that keep the error of every one below a tolerance.

    The error is known, not estimated: it is a sum over the entries that were left out.

    Args:
        factor: the factor of A, without leading directions.
        layout: the weight matrices inside flat vectors.
        pairs: k gradients v as outer products.
        tolerance: the largest relative error ||difference||_A / ||A^-1 v||_A, between 0 and 1.

    Raises:
        ValueError: for another tolerance, and for factors with leading directions.
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"compress must lie between 0 and 1, got {tolerance}")
    rest = pairs.rest.to(factor.dtype)
    found: list[Pair] = []
    wrong, size = rest.new_zeros(len(rest)), rest.new_zeros(len(rest))
    for (left, right), (_, part) in zip(pairs.layers, factor.layers, strict=True):
        if part.leading:
            raise ValueError(
                "compress needs an EKFAC without leading directions, which are for preconditioners: leave `leading` out"
            )
        U, W, error, own = _layer(part, left.to(factor.dtype), right.to(factor.dtype), tolerance)
        found.append((U, W))
        wrong, size = wrong + error, size + own
    if factor.rest is not None:
        solved = factor.rest[1].solve(rest)
        size, rest = size + (solved * rest).sum(1), solved
    ranks = tuple(len(U) for U, _ in found)
    error = (wrong / size.clamp(min=torch.finfo(size.dtype).tiny)).sqrt()
    return Compressed(Outer(layout, found, rest), ranks, error)


def _layer(
    factor: KroneckerFactor, left: Float[Tensor, "k t r"], right: Float[Tensor, "k t s"], tolerance: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Answers U (R, k, r), W (R, k, s) in one weight matrix, their squared error and squared size (k,)."""
    left, right, values = left @ factor.left, right @ factor.right, factor.values
    truncated = _truncated_inverse if left.shape[1] == 1 else _truncated_answers
    tried = truncated(left, right, values)
    U, W, error, size = next(tried)
    while bool((error > tolerance**2 * size).any()) and (better := next(tried, None)) is not None:
        U, W, error, size = better
    return U @ factor.left.mT, W @ factor.right.mT, error, size


Truncations = Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]
"""Answers of growing rank in the eigenbases: U (R, k, r), W (R, k, s), squared error (k,), squared size (k,)."""


def _truncated_inverse(
    left: Float[Tensor, "k 1 r"], right: Float[Tensor, "k 1 s"], values: Float[Tensor, "r s"]
) -> Truncations:
    """The answers for gradients of one position: the inverse eigenvalues are truncated, once for all gradients."""
    d, a = left[:, 0], right[:, 0]
    size = ((d.square() @ (1 / values)) * a.square()).sum(1)
    for U, W in _low_rank(1 / values, values, 1.0):
        difference = 1 / values - U @ W
        error = ((d.square() @ (difference.square() * values)) * a.square()).sum(1)
        yield d * U.T[:, None], a * W[:, None], error, size


def _truncated_answers(
    left: Float[Tensor, "k t r"], right: Float[Tensor, "k t s"], values: Float[Tensor, "r s"]
) -> Truncations:
    """The answers for gradients of many positions: each is truncated by itself, all to the same rank."""
    S = (left.mT @ right) / values
    size = (S.square() * values).sum((1, 2))
    for U, W in _low_rank(S, values, 0.5):
        error = ((S - U @ W).square() * values).sum((1, 2))
        yield U.movedim(2, 0), W.movedim(1, 0), error, size


def _low_rank(
    M: Float[Tensor, "*k r s"], values: Float[Tensor, "r s"], power: float
) -> Iterator[tuple[Float[Tensor, "*k r R"], Float[Tensor, "*k R s"]]]:
    """M ~ U W with growing rank R, best where gradients of the training data are large."""
    rows, columns = values.mean(1) ** power, values.mean(0) ** power
    left, sizes, right = torch.linalg.svd(rows[:, None] * M * columns, full_matrices=False)
    left, right = left / rows[:, None] * sizes[..., None, :], right / columns
    rank, most = 1, sizes.shape[-1]
    while True:
        yield left[..., :rank], right[..., :rank, :]
        if rank == most:
            return
        rank = min(most, rank + max(1, rank // 4))
