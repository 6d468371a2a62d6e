"""The Gauss-Newton matrix of a network from Jacobians: one pass over the data, summed in float64."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float

from ..runtime.progress import track
from ..types import Tensor
from .layers.gradients import NetworkLayers
from .output_curvature import output_roots, through_outputs
from .passes import Passes

GRAM_COLUMNS = 512
"""Columns of a symmetric product that are taken at once: what is below the diagonal is left out in such steps."""


def sum_of_squares(passes: Passes, layers: NetworkLayers, c: int) -> Float[Tensor, "p p"]:
    """sum_i w_i J_i^T H_i J_i over this process's share: the upper triangle, with a little more below it.

    Args:
        passes: the training examples at theta.
        layers: the model's layers, whose Jacobians come many at a time.
        c: outputs per example.

    Returns:
        A float64 matrix (p, p), without penalty.
    """
    of, theta, p = passes.evaluation, passes.theta, len(passes.theta)
    total = torch.zeros(p, p, dtype=torch.float64, device=theta.device)
    every = torch.arange(p, device=theta.device)
    held: list[tuple[Tensor, Tensor]] = []
    room = passes.memory.jacobians(c)
    size, own = min(passes.memory.size, room), passes.share
    blocks = passes.data.blocks(size, own)
    for part, batch in track(blocks, "Gauss-Newton matrix", math.ceil((own.stop - own.start) / size)):
        S, sign = output_roots(of, theta, batch)
        together = layers.together
        J = layers.layered.jacobians(batch, S) if together else through_outputs(of, theta, batch, S, every)
        held.append((J.flatten(0, 1), (passes.weights_of(part)[:, None] * sign).flatten()))
        if part.stop == own.stop or (len(held) + 1) * size > room:
            _add_gram(total, *(torch.cat(sides) for sides in zip(*held, strict=True)))
            held.clear()
    return total


def _add_gram(total: Float[Tensor, "p p"], P: Float[Tensor, "b p"], w: Float[Tensor, " b"]) -> None:
    """Add P^T diag(w) P to the upper triangle, with a little more below it."""
    scaled = P * w[:, None]
    for start in range(0, len(total), GRAM_COLUMNS):
        total[start : start + GRAM_COLUMNS, start:] += (
            scaled[:, start : start + GRAM_COLUMNS].T @ P[:, start:]
        )
