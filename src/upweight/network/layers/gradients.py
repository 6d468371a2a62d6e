"""Gradients of many examples, layer by layer: one forward and one backward pass, and for some no gradient is formed.

The gradient of a layer's weight is sum_t left_t right_t^T (`layers`). What is asked of it, a product with given vectors
or a matrix of Jacobians, comes from those small factors, many times faster than by differentiation per example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch.utils._pytree import tree_flatten

from ...data.examples import count
from ...data.per_example import Loss
from ...linalg.outer_products import Outer, Pairs, Vectors
from ...types import Tensor
from ..evaluation import Evaluation, plain_gradient
from ..output_curvature import flat_outputs, through_outputs
from .layer import Layer, example_first, find_layers, pull_back, record
from .norm import Calls, Scale


@dataclass(frozen=True, eq=False)
class Layered:
    """The layers of a model at theta; `rest` are the entries of theta outside them, some of them in scales.

    `together` says whether all layers see the examples of a batch along the first dimension; only then it can be used
    for many examples at once. `loose` are the places in `rest` of what no scale holds either.
    """

    of: Evaluation
    theta: Float[Tensor, " p"]
    layers: list[Layer] = field(repr=False)
    rest: Tensor
    together: bool
    scales: list[Scale] = field(repr=False)
    loose: Tensor

    @classmethod
    def find(cls, of: Evaluation, theta: Float[Tensor, " p"], trial: Any) -> Layered:
        """By looking at a few examples."""
        layers, scales = find_layers(of, theta, trial)
        first = example_first(of, theta, trial)
        seen = all(module in first for layer in layers for module in layer.modules)
        together = of.strategy == "batch" and seen
        if together:
            scales = [scale for scale in scales if scale.module in first]
        rest, outside = _uncovered(layers, theta), _uncovered([*layers, *scales], theta)
        return cls(of, theta, layers, rest, together, scales, torch.searchsorted(rest, outside))

    def pairs(self, batch: Any, function: Loss | None = None) -> Pairs:
        """Of the gradient of every example's loss (or measure): one forward and one backward pass."""
        outputs, calls = record(self.of, self.theta, batch)
        b = count(batch)
        with torch.enable_grad():
            total = self.of.measured(outputs, batch, function).sum()
        if not total.requires_grad:  # a measure that does not depend on the outputs
            return Pairs([layer.pair({}, b) for layer in self.layers], self.scaled({}, b))
        slopes = pull_back(total, calls)
        rest = self.scaled(slopes, b)
        if len(self.loose):
            slope = torch.autograd.grad(total, tree_flatten(outputs)[0], materialize_grads=True)
            rest[:, self.loose] = self.through(batch, flat_outputs(slope, b)[:, None])[:, 0]
        return Pairs([layer.pair(slopes, b) for layer in self.layers], rest)

    def scaled(self, calls: Calls, b: int) -> Float[Tensor, "b q"]:
        """The entries of gradients outside layers, from output derivatives; zero where no scale holds them."""
        found = self.theta.new_zeros(b, len(self.rest))
        for scale in self.scales:
            found[:, torch.searchsorted(self.rest, scale.index)] = scale.gradients(calls, b).to(found)
        return found

    def through(self, batch: Any, V: Float[Tensor, "b k c"]) -> Float[Tensor, "b k q"]:
        """The loose entries of the gradients of v . outputs, by differentiation example by example."""
        return through_outputs(self.of, self.theta, batch, V, self.rest[self.loose])

    def agrees(self, batch: Any) -> bool:
        """Whether plain differentiation gives the same gradient of the batch's losses, summed with random signs."""
        signs = torch.randint(0, 2, (count(batch),), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        signs = signs.to(self.theta)
        plain = plain_gradient(lambda theta: self.of.losses(theta, batch) @ signs, self.theta)
        pairs = self.pairs(batch)
        mine = torch.zeros_like(plain)
        mine[self.rest] = signs @ pairs.rest
        for layer, (left, right) in zip(self.layers, pairs.layers, strict=True):
            signed = left * signs[:, None, None]
            mine[layer.index] = layer.flat(signed.flatten(0, 1).T @ right.flatten(0, 1))
        rounding = torch.finfo(plain.dtype).eps ** 0.75
        return bool((mine - plain).norm() <= 100 * rounding * plain.norm())

    def gradients(self, batch: Any, function: Loss | None = None) -> Float[Tensor, "b p"]:
        """The gradient of every example's loss (or measure)."""
        pairs = self.pairs(batch, function)
        G = self.theta.new_empty(count(batch), len(self.theta))
        G[:, self.rest] = pairs.rest
        for layer, (left, right) in zip(self.layers, pairs.layers, strict=True):
            G[:, layer.index] = layer.flat(left.mT @ right)
        return G

    def jacobians(self, batch: Any, V: Float[Tensor, "b k c"]) -> Float[Tensor, "b k p"]:
        """The gradients of v . outputs for k cotangents v of every example."""
        outputs, calls = record(self.of, self.theta, batch)
        b, k = V.shape[:2]
        flat = flat_outputs(outputs, b)
        slopes = [pull_back(flat, calls, v) for v in V.unbind(1)]
        P = self.theta.new_empty(b, k, len(self.theta))
        P[:, :, self.rest] = torch.stack([self.scaled(calls, b) for calls in slopes], dim=1)
        if len(self.loose):
            P[:, :, self.rest[self.loose]] = self.through(batch, V)
        for layer in self.layers:
            P[:, :, layer.index] = layer.flat(_stacked(layer, slopes, b))
        return P

    def dot(self, vectors: Outer, vector: Float[Tensor, " p"]) -> Float[Tensor, " k"]:
        """The product of every one of `vectors` with one flat vector."""
        total = vectors.rest @ vector[self.rest]
        for layer, (U, W) in zip(self.layers, vectors.layers, strict=True):
            total = total + ((U @ layer.stack(vector)) * W).sum((0, 2))
        return total

    def take_apart(self, rows: Float[Tensor, "k p"]) -> Vectors:
        """Flat vectors, layer by layer."""
        return Vectors([layer.stack(rows) for layer in self.layers], rows[:, self.rest])


def _uncovered(parts: Sequence[Layer | Scale], theta: Float[Tensor, " p"]) -> Tensor:
    """The entries of theta that no part holds, in order."""
    free = torch.ones(len(theta), dtype=torch.bool, device=theta.device)
    for part in parts:
        free[part.index] = False
    return free.nonzero()[:, 0]


def _stacked(layer: Layer, slopes: Sequence[Calls], b: int) -> Float[Tensor, "b k r s"]:
    """The weight's gradients for several cotangents."""
    if layer.words:
        pairs = [layer.pair(calls, b) for calls in slopes]
        return torch.stack([left.mT @ right for left, right in pairs], dim=1)
    left = torch.stack([layer.left(calls, b) for calls in slopes], dim=2)  # (b, t, k, r)
    right = layer.right(slopes[0], b)
    return (left.flatten(2).mT @ right).unflatten(1, left.shape[2:])
