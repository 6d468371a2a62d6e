"""Gradients of reduced objectives: those without some of the training examples, at no refit.

Without k of n examples the objective is (1/(n-k)) sum of the other w_i l_i + the penalty: keep="mean" leaves l2 as it
is, keep="total" lets it grow by n/(n-k). A gradient of zero says that theta is what a retraining arrives at.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int

from ..objective import LinearModel
from ..types import Tensor
from .following import class_gradients, scale_factors
from .output_map import OutputMap

Sets = Sequence[Int[Tensor, " _"]]
"""Training rows of each set that is removed, without repetition; an empty one removes nothing."""

GONE_ROWS = 1024
"""Removed rows whose gradients are formed at a time."""


def reduced_gradients(
    problem: LinearModel, to_outputs: OutputMap, thetas: Float[Tensor, "g p"], sets: Sets
) -> Float[Tensor, "g p"]:
    """The gradient of each reduced objective at parameters of its own, in float64: one pass over X for all of them.

    Args:
        problem: the model with all of its training examples.
        to_outputs: how its parameters become outputs.
        thetas: the parameters of each reduced objective, (g, p).
        sets: the training rows that each of them lacks, g sets.

    Returns:
        The gradients (g, p), penalty included, on the mean over the examples that are left.
    """
    gone, owner = _members(sets)
    total, counts, ratio = (
        torch.zeros_like(thetas),
        problem.counts,
        scale_ratios(problem, to_outputs, thetas, sets),
    )
    factors = total if counts is None else counts.factors(sets)
    for part, block in problem.design.blocks(1024, torch.float64):
        eta = to_outputs.forward(block, thetas)
        y, residual = problem.y[part], problem.loss.residual
        if ratio is not None:
            residual = partial(problem.loss.residual_at, ratio)  # type: ignore[attr-defined]
        r = residual(eta, y).mul_(problem.weights[part, None, None])
        if counts is not None:
            r.mul_(factors[:, counts.codes[part]].T[:, None])
        inside = (gone >= part.start) & (gone < part.stop)
        r[gone[inside] - part.start, :, owner[inside]] = 0.0
        total += to_outputs.backward(block, r)
    return _reduced(problem, total, thetas, sets, ratio)


def first_gradients(problem: LinearModel, sets: Sets) -> Float[Tensor, "g p"]:
    """The gradients (g, p) of all reduced objectives at the problem's own parameters, penalty included.

    At the same theta a reduced gradient is the whole one less the removed examples' own, so that only the removed rows
    are read, `GONE_ROWS` of them at a time; the whole gradient is known already.

    Args:
        problem: the model with all of its training examples.
        sets: the training rows that each reduced objective lacks, g sets.
    """
    gone, owner = _members(sets)
    whole, counts = problem.n * (problem.gradient() - problem.penalty.gradient(problem.theta)), problem.counts
    factors = torch.ones(len(sets), 1) if counts is None else counts.factors(sets)
    total = whole.repeat(len(sets), 1) if counts is None else factors @ class_gradients(problem, counts)
    for rows, own in zip(gone.split(GONE_ROWS), owner.split(GONE_ROWS), strict=True):
        left = problem.train_gradients(rows) - problem.folded_penalty
        if counts is not None:
            left = left * factors[own, counts.codes[rows]][:, None]
        total.index_add_(0, own, left, alpha=-1)
    return _reduced(problem, total, problem.theta.expand_as(total), sets)


def _members(sets: Sets) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """All removed rows, and the set that each belongs to."""
    counts = torch.tensor([len(rows) for rows in sets], dtype=torch.long)
    owner = torch.repeat_interleave(torch.arange(len(sets)), counts)
    return torch.cat([torch.empty(0, dtype=torch.long), *sets]), owner


def scale_ratios(
    problem: LinearModel, to_outputs: OutputMap, thetas: Float[Tensor, "g p"], sets: Sets
) -> Float[Tensor, " g"] | None:
    """The scale that a loss has fitted to each reduced objective at its parameters, over its own; None without one.

    Args:
        problem: the model with all of its training examples.
        to_outputs: how its parameters become outputs.
        thetas: the parameters of each reduced objective, (g, p).
        sets: the training rows that each of them lacks, g sets.
    """
    if not problem.loss.fits_scale:
        return None
    blocks = problem.design.blocks(1024, torch.float64)
    eta = torch.cat([to_outputs.forward(block, thetas)[:, 0] for _, block in blocks])
    return problem.loss.scales_without(eta - problem.y, problem.weights, sets)  # type: ignore[attr-defined]


def _reduced(
    problem: LinearModel, total: Tensor, thetas: Tensor, sets: Sets, ratio: Tensor | None = None
) -> Float[Tensor, "g p"]:
    """From the sum of the kept examples' gradients to the gradient of the reduced objective.

    Args:
        problem: the model with all of its training examples.
        total: the sums (g, p).
        thetas: the parameters of each reduced objective (g, p).
        sets: the rows that each lacks.
        ratio: what the penalty is multiplied with where it goes with a fitted scale (g,), or None.
    """
    n, penalty, counts = problem.n, problem.penalty, [len(rows) for rows in sets]
    kept = torch.tensor([n - k for k in counts], dtype=torch.float64)
    factors = torch.tensor([penalty.factor(k, n) for k in counts], dtype=torch.float64)
    scaled = scale_factors(problem, sets)
    gradient = penalty.gradient(thetas) if scaled is None else penalty.gradient(thetas, scaled)
    return total / kept[:, None] + gradient * (factors if ratio is None else factors * ratio)[:, None]
