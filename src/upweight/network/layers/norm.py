"""Weights that scale a normalised input, entry by entry: those of layer norms and their kind.

The gradient for one example is sum_t slope_t * normal_t, with normal the input normalised and slope the derivative in
the output; that of the intercept is sum_t slope_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import nn
from torch.func import functional_call

from ...types import Tensor

Calls: TypeAlias = dict[nn.Module, list[tuple[Tensor, Tensor]]]
"""Of each module the input and the output (or the derivative in the output), use by use."""


def is_scale(module: nn.Module) -> bool:
    """Layer, group or root-mean-square norm; the last also of other libraries, by its name."""
    return isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or type(module).__name__.endswith("RMSNorm")


@dataclass(frozen=True, eq=False)
class Scale:
    """The weight of a norm: `index` are its entries of theta, then those of its intercept."""

    module: nn.Module = field(repr=False)
    index: Tensor = field(repr=False)
    width: int
    """Entries of the weight."""

    def gradients(self, calls: Calls, b: int) -> Float[Tensor, "b q"]:
        """Of b examples, in the order of `index`."""
        total = self.index.new_zeros(b, len(self.index), dtype=torch.get_default_dtype())
        for x, slope in calls.get(self.module, []):
            normal = _normalised(self.module, x)
            sides = (slope * normal, slope) if len(self.index) > self.width else (slope * normal,)
            total = total + torch.cat([self._summed(side, b) for side in sides], dim=1)
        return total

    def _summed(self, values: Tensor, b: int) -> Float[Tensor, "b w"]:
        """Over all positions."""
        if isinstance(self.module, nn.GroupNorm):
            return values.reshape(b, self.width, -1).sum(2)
        return values.reshape(b, -1, self.width).sum(1)


def _normalised(module: nn.Module, x: Tensor) -> Tensor:
    """What the weight is multiplied with: the module's output is affine in it."""

    def at(weight: float) -> Tensor:
        params = {name: torch.zeros_like(value) for name, value in module.named_parameters()}
        return functional_call(module, {**params, "weight": torch.full_like(params["weight"], weight)}, (x,))

    with torch.no_grad():
        return at(1.0) - at(0.0)


def scales_of(
    name: str, modules: list[nn.Module], names: dict[int, str], places: dict[str, Tensor]
) -> Iterator[Scale]:
    """The scale of the weight `name`; none where modules share it."""
    if len(modules) > 1:
        return
    bias = names.get(id(modules[0]._parameters.get("bias")), "")
    parts = [places[key] for key in (name, bias) if key in places]
    yield Scale(modules[0], torch.cat(parts), len(places[name]))
