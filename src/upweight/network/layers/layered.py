"""Gradients of many examples, layer by layer: one forward and one backward pass, and for some no gradient is formed.

The gradient of a layer's weight is sum_t left_t right_t^T. What is asked of it, a product with given vectors or a
matrix of Jacobians, comes from those small factors, many times faster than by differentiation per example.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import nn
from torch.utils._pytree import tree_flatten

from ...data.examples import count
from ...data.per_example import Loss
from ...linalg.outer_products import Pairs, WeightLayout
from ...types import Tensor
from ..comparisons import plain_gradient
from ..evaluation import Evaluation
from ..output_curvature import flat_outputs
from .find import find_layers
from .layer import Calls, Weight
from .recorder import example_first, pull_back, record
from .rest import Rest


@dataclass(frozen=True, eq=False)
class Layered:
    """The layers of a model at theta, and gradients of a batch by them.

    Args:
        of: the model with its loss.
        theta: where gradients are taken (p,).
        weights: the weight matrices.
        rest: the entries of theta outside them.
        example_first: whether all layers see the examples of a batch along the first dimension; only then gradients of
            many examples can be had at once.
        odd: the first layer that does not, in words; "" where there is none.
    """

    of: Evaluation
    theta: Float[Tensor, " p"] = field(repr=False)
    weights: tuple[Weight, ...] = field(repr=False)
    rest: Rest
    example_first: bool
    odd: str = ""

    @classmethod
    def find(cls, of: Evaluation, theta: Float[Tensor, " p"], trial: Any) -> Layered:
        """The layers that explain the gradients of a few examples.

        Args:
            of: the model with its loss.
            theta: where gradients are taken (p,).
            trial: those examples.
        """
        weights, norms = find_layers(of, theta, trial)
        first = example_first(of, theta, trial)
        odd = {layer.module for weight in weights for layer in weight.layers if layer.module not in first}
        together = of.strategy == "batch" and not odd
        if together:
            norms = [norm for norm in norms if norm.module in first]
        rest = Rest.of(len(theta), [weight.index for weight in weights], norms, theta)
        return cls(of, theta, tuple(weights), rest, together, "" if together else named(of.model, odd))

    def apart(self, most: float) -> str:
        """Why gradients of many examples cannot be had at once, in words with the layer that it is for; "" if they can.

        Args:
            most: the share of the parameters that may be outside layers.
        """
        if self.of.strategy != "batch":
            return "the model does not take several examples at once"
        if not self.example_first:
            return f"{self.odd} does not see one example after the other along its first dimension"
        loose, layout = self.rest.index[self.rest.loose], self.of.layout
        if len(loose) <= most * len(self.theta):
            return ""
        ends = torch.tensor(layout.sizes, device=loose.device).cumsum(0)
        held = torch.bincount(torch.bucketize(loose, ends, right=True), minlength=len(ends))
        name = layout.names[int(held.argmax())]
        holder = dict(self.of.model.named_modules())[name.rpartition(".")[0]]
        return (
            f"{len(loose) / len(self.theta):.0%} of the parameters are in no layer of a known kind, the most of them "
            f"({int(held.max())}) {name!r} in {named(self.of.model, [holder])}"
        )

    @cached_property
    def layout(self) -> WeightLayout:
        """The weight matrices inside theta, and the entries outside them."""
        return WeightLayout(tuple(weight.matrix for weight in self.weights), self.rest.index)

    def rounded(self, dtype: torch.dtype | None) -> Layered:
        """A copy whose model computes in that precision; None: in theta's."""
        return replace(self, of=self.of.rounded(dtype))

    def pairs(self, batch: Any, function: Loss | None = None) -> Pairs:
        """The gradient of every example's loss (or measure) as small factors: one forward and one backward pass."""
        outputs, calls = record(self.of, self.theta, batch)
        b = count(batch)
        with torch.enable_grad():
            total = self.of.measured(outputs, batch, function).sum()
        if not total.requires_grad:  # a measure that does not depend on the outputs
            return Pairs([weight.pair({}, b) for weight in self.weights], self.rest.scaled({}, b, self.theta))
        slopes = pull_back(total, calls)
        rest = self.rest.scaled(slopes, b, self.theta)
        if len(self.rest.loose):
            slope = torch.autograd.grad(total, tree_flatten(outputs)[0], materialize_grads=True)
            rest[:, self.rest.loose] = self.through(batch, flat_outputs(slope, b)[:, None])[:, 0]
        return Pairs([weight.pair(slopes, b) for weight in self.weights], rest)

    def through(self, batch: Any, V: Float[Tensor, "b k c"]) -> Float[Tensor, "b k l"]:
        """The loose entries of the gradients of v . outputs, by differentiation example by example."""
        return self.rest.through(self.of, self.theta, batch, V)

    def agrees(self, batch: Any) -> bool:
        """Whether plain differentiation gives the same gradient of the batch's losses, summed with random signs."""
        signs = torch.randint(0, 2, (count(batch),), generator=torch.Generator().manual_seed(0)) * 2.0 - 1.0
        signs = signs.to(self.theta)
        plain = plain_gradient(lambda theta: self.of.losses(theta, batch) @ signs, self.theta)
        pairs = self.pairs(batch)
        mine = torch.zeros_like(plain)
        mine[self.rest.index] = signs @ pairs.rest
        for weight, (left, right) in zip(self.weights, pairs.layers, strict=True):
            signed = left * signs[:, None, None]
            mine[weight.index] = weight.matrix.flat(signed.flatten(0, 1).T @ right.flatten(0, 1))
        rounding = torch.finfo(plain.dtype).eps ** 0.75
        return bool((mine - plain).norm() <= 100 * rounding * plain.norm())

    def gradients(self, batch: Any, function: Loss | None = None) -> Float[Tensor, "b p"]:
        """The gradient of every example's loss (or measure)."""
        return self.layout.join(self.pairs(batch, function))

    def jacobians(self, batch: Any, V: Float[Tensor, "b k c"]) -> Float[Tensor, "b k p"]:
        """The gradients of v . outputs for k cotangents v of every example."""
        outputs, calls = record(self.of, self.theta, batch)
        b, k = V.shape[:2]
        flat = flat_outputs(outputs, b)
        slopes = [pull_back(flat, calls, v) for v in V.unbind(1)]
        P = self.theta.new_empty(b, k, len(self.theta))
        scaled = [self.rest.scaled(calls, b, self.theta) for calls in slopes]
        P[:, :, self.rest.index] = torch.stack(scaled, dim=1)
        if len(self.rest.loose):
            P[:, :, self.rest.index[self.rest.loose]] = self.through(batch, V)
        for weight in self.weights:
            P[:, :, weight.index] = weight.matrix.flat(_stacked(weight, slopes, b))
        return P


def named(model: nn.Module, wanted: Collection[nn.Module]) -> str:
    """The first of some modules of a model, in words.

    >>> model = nn.Sequential(nn.Tanh(), nn.Linear(2, 3))
    >>> named(model, [model[1]])
    "layer '1' (Linear)"
    """
    for name, module in model.named_modules():
        if module in wanted:
            return f"layer {name!r} ({type(module).__name__})" if name else f"the {type(module).__name__}"
    return "the model"


def _stacked(weight: Weight, slopes: Sequence[Calls], b: int) -> Float[Tensor, "b k r s"]:
    """The weight's gradients for several cotangents."""
    if not weight.shares_right:
        pairs = [weight.pair(calls, b) for calls in slopes]
        return torch.stack([left.mT @ right for left, right in pairs], dim=1)
    left = torch.stack([weight.left(calls, b) for calls in slopes], dim=2)  # (b, t, k, r)
    right = weight.right(slopes[0], b)
    return (left.flatten(2).mT @ right).unflatten(1, left.shape[2:])
