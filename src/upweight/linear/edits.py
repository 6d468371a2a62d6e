"""The objective without some of the training examples: what a removal leaves to be minimised.

keep="mean": (1/(n-k)) sum of the other losses + the same l2; keep="total": the penalty grows by n/(n-k) with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int

from ..types import Tensor
from .problem import LinearProblem

Sets = Sequence[Int[Tensor, " _"]]
"""Training rows of each set that is removed, without repetition; an empty one removes nothing."""

GONE_ROWS = 1024
"""Removed rows whose gradients are formed at a time."""


def penalty_factor(problem: LinearProblem, removed: int) -> float:
    """What l2 on the mean loss is multiplied with when `removed` examples are gone."""
    return problem.n / (problem.n - removed) if problem.keep == "total" else 1.0


def without(problem: LinearProblem, rows: Int[Tensor, " k"]) -> LinearProblem:
    """The reduced problem, at the same parameters.

    >>> from upweight import Squared
    >>> problem = LinearProblem(
    ...     torch.eye(4), torch.ones(4), torch.zeros(4), loss=Squared(), l2=0.3, keep="total"
    ... )
    >>> reduced = without(problem, torch.tensor([1]))
    >>> reduced.n, round(float(reduced.l2[0]), 3)
    (3, 0.4)
    """
    kept = torch.ones(problem.n, dtype=torch.bool)
    kept[rows] = False
    alone = problem.subset(kept.nonzero()[:, 0])
    alone.l2 = problem.l2 * penalty_factor(problem, len(rows))
    return alone


def reduced_gradients(
    problem: LinearProblem, thetas: Float[Tensor, "g p"], sets: Sets
) -> Float[Tensor, "g p"]:
    """The gradient of each reduced objective at its own parameters, in float64, from the outputs at those."""
    gone, owner = _members(sets)
    total = torch.zeros_like(thetas)
    for part, block in problem.design.blocks(1024, torch.float64):
        eta = problem._forward(block, thetas)
        r = problem.loss.residual(eta, problem.y[part]).mul_(problem.weights[part, None, None])
        inside = (gone >= part.start) & (gone < part.stop)
        r[gone[inside] - part.start, :, owner[inside]] = 0.0
        total += problem._backward(block, r)
    return _reduced(problem, total, thetas, sets)


def first_gradients(problem: LinearProblem, sets: Sets) -> Float[Tensor, "g p"]:
    """`reduced_gradients` at the problem's own parameters, without a pass over the data per set."""
    gone, owner = _members(sets)
    whole = problem.n * (problem.gradient() - problem.l2 * problem.theta)
    total = whole.repeat(len(sets), 1)
    for rows, own in zip(gone.split(GONE_ROWS), owner.split(GONE_ROWS), strict=True):
        total.index_add_(0, own, problem.train_gradients(rows) - problem.folded_penalty, alpha=-1)
    return _reduced(problem, total, problem.theta.expand_as(total), sets)


def _members(sets: Sets) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """All removed rows, and the set that each belongs to."""
    counts = torch.tensor([len(rows) for rows in sets])
    owner = torch.repeat_interleave(torch.arange(len(sets)), counts)
    return torch.cat([torch.empty(0, dtype=torch.long), *sets]), owner


def _reduced(problem: LinearProblem, total: Tensor, thetas: Tensor, sets: Sets) -> Float[Tensor, "g p"]:
    """From the sum of the kept examples' gradients to the gradient of the reduced objective."""
    counts = [len(rows) for rows in sets]
    kept = torch.tensor([problem.n - k for k in counts], dtype=torch.float64)
    factors = torch.tensor([penalty_factor(problem, k) for k in counts], dtype=torch.float64)
    return total / kept[:, None] + problem.l2 * thetas * factors[:, None]


def relabelled(problem: LinearProblem, rows: Int[Tensor, " k"], targets: Tensor) -> LinearProblem:
    """The problem with those encoded targets in place of the rows' own, at the same parameters."""
    other = problem.at(problem.theta)
    other.y = problem.y.clone()
    other.y[rows] = targets.to(problem.y)
    return other
