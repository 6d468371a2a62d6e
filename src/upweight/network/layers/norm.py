"""Weights that scale a normalised input, entry by entry: those of layer norms and their kind.

The gradient for one example is sum_t slope_t * normal_t, with normal the input normalised and slope the derivative in
the output; that of the intercept is sum_t slope_t.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.func import functional_call

from ...types import Tensor
from .layer import Calls


@dataclass(frozen=True, eq=False)
class Norm(ABC):
    """A norm whose weight scales what it has normalised. A subclass is a kind of norm, in the table of `kinds`.

    Args:
        module: the norm.
        index: the entries of theta that its weight has, then those of its intercept.
        width: the entries of the weight.
    """

    module: nn.Module = field(repr=False)
    index: Int[Tensor, " q"] = field(repr=False)
    width: int

    @abstractmethod
    def summed(self, values: Tensor, b: int) -> Float[Tensor, "b w"]:
        """Numbers in the shape of the norm's output, added over the positions that share an entry of the weight."""

    def gradients(self, calls: Calls, b: int) -> Float[Tensor, "b q"]:
        """The gradients of b examples, in the order of `index`."""
        total = self.index.new_zeros(b, len(self.index), dtype=torch.get_default_dtype())
        for x, slope in calls.get(self.module, []):
            normal = _normalised(self.module, x)
            sides = (slope * normal, slope) if len(self.index) > self.width else (slope * normal,)
            total = total + torch.cat([self.summed(side, b) for side in sides], dim=1)
        return total


class RowNorm(Norm):
    """Layer norm and root-mean-square norm: features are the last dimensions."""

    def summed(self, values: Tensor, b: int) -> Float[Tensor, "b w"]:
        return values.reshape(b, -1, self.width).sum(1)


class ChannelNorm(Norm):
    """Group norm, and batch norm with the statistics of training: channels come right after the examples."""

    def summed(self, values: Tensor, b: int) -> Float[Tensor, "b w"]:
        return values.reshape(b, -1, self.width, values[0, 0].numel()).sum((1, 3))


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight is multiplied with: the module's output is affine in it."""

    def at(weight: float) -> Tensor:
        params = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
        return functional_call(module, {**params, "weight": torch.full_like(params["weight"], weight)}, (x,))

    with torch.no_grad():
        return at(1.0) - at(0.0)
