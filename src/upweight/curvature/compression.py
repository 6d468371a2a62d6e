"""Compressed answers of EKFAC: inverse times gradient as a few outer products per layer, never formed as a vector.

A gradient of one position is d a^T. In the eigenbases the inverse multiplies it entrywise by M = 1 / (Lambda + damping)
and a truncated M = sum_R u_R v_R^T makes sum_R (d u_R)(a v_R)^T of it: a score then costs R (r + s) operations in place
of r s. The gradient of several positions is truncated itself.
"""

from __future__ import annotations

from collections.abc import Callable

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
    most, at_rank = truncated(left, right, values)
    # Errors fall as the rank grows: the smallest that suffices lies between one that does not and one that does.
    low, high = 0, 1
    while high < most and not _within(at_rank(high), tolerance):
        low, high = high, min(most, 2 * high)
    while high - low > 1:
        rank = (low + high) // 2
        low, high = (low, rank) if _within(at_rank(rank), tolerance) else (rank, high)
    U, W, error, size = at_rank(high)
    return U @ factor.left.mT, W @ factor.right.mT, error, size


def _within(answers: Answers, tolerance: float) -> bool:
    return bool((answers[2] <= tolerance**2 * answers[3]).all())


Answers = tuple[Tensor, Tensor, Tensor, Tensor]
"""Answers in the eigenbases: U (R, k, r), W (R, k, s), squared error (k,), squared size (k,)."""
Truncations = tuple[int, Callable[[int], Answers]]
"""The largest rank R, and answers by their rank."""


def _truncated_inverse(
    left: Float[Tensor, "k 1 r"], right: Float[Tensor, "k 1 s"], values: Float[Tensor, "r s"]
) -> Truncations:
    """The answers for gradients of one position: the inverse eigenvalues are truncated, once for all gradients."""
    d, a = left[:, 0], right[:, 0]
    size = ((d.square() @ (1 / values)) * a.square()).sum(1)
    left_of, right_of = _low_rank(1 / values, values, 1.0)

    def at_rank(rank: int) -> Answers:
        U, W = left_of[:, :rank], right_of[:rank]
        difference = 1 / values - U @ W
        error = ((d.square() @ (difference.square() * values)) * a.square()).sum(1)
        return d * U.T[:, None], a * W[:, None], error, size

    return len(right_of), at_rank


def _truncated_answers(
    left: Float[Tensor, "k t r"], right: Float[Tensor, "k t s"], values: Float[Tensor, "r s"]
) -> Truncations:
    """The answers for gradients of many positions: each is truncated by itself, all to the same rank."""
    S = (left.mT @ right) / values
    size = (S.square() * values).sum((1, 2))
    left_of, right_of = _low_rank(S, values, 0.5)

    def at_rank(rank: int) -> Answers:
        U, W = left_of[..., :rank], right_of[:, :rank]
        error = ((S - U @ W).square() * values).sum((1, 2))
        return U.movedim(2, 0), W.movedim(1, 0), error, size

    return right_of.shape[1], at_rank


def _low_rank(
    M: Float[Tensor, "*k r s"], values: Float[Tensor, "r s"], power: float
) -> tuple[Float[Tensor, "*k r R"], Float[Tensor, "*k R s"]]:
    """M = U W, whose first columns and rows truncate M best where gradients of the training data are large."""
    rows, columns = values.mean(1) ** power, values.mean(0) ** power
    left, sizes, right = torch.linalg.svd(rows[:, None] * M * columns, full_matrices=False)
    return left / rows[:, None] * sizes[..., None, :], right / columns
