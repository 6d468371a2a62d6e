"""Convolutions: the patch that each position saw times the derivative there, group by group."""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Float, Int
from torch.nn import functional as F

from ...types import Tensor
from .layer import Layer


class Convolution(Layer):
    """`nn.Conv1d` and `nn.Conv2d`: a weight (out, in / groups, *kernel)."""

    @staticmethod
    def entries(module: Any, index: Int[Tensor, " q"]) -> Int[Tensor, "g r s"]:
        return index.view(module.groups, module.out_channels // module.groups, -1)

    def left(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t r"]:
        left = slope.chunk(self.module.groups, dim=1)[self.group].flatten(2).mT
        return left.reshape(b, -1, left.shape[2])

    def right(self, x: Tensor, slope: Tensor, b: int) -> Float[Tensor, "b t s"]:
        right = _patches(self.module, x, self.group, self.matrix.intercept)
        return right.reshape(b, -1, right.shape[2])


def _patches(module: Any, x: Tensor, group: int, intercept: bool) -> Float[Tensor, "b t s"]:
    """The patch that each output position of a convolution saw, s = in / groups * k, and an intercept's constant."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = F.pad(x, module._reversed_padding_repeated_twice, mode=mode).chunk(module.groups, dim=1)[group]
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    places = [
        (size - d * (k - 1) - 1) // s + 1
        for size, k, d, s in zip(x.shape[2:], kernel, dilation, stride, strict=True)
    ]
    steps = x.stride()[2:]
    inside = [d * step for d, step in zip(dilation, steps, strict=True)]
    across = [s * step for s, step in zip(stride, steps, strict=True)]
    # A view of x; copied in this order, with the positions last, it is several times faster than F.unfold.
    view = x.as_strided((*x.shape[:2], *kernel, *places), (*x.stride()[:2], *inside, *across))
    size = x.shape[1] * math.prod(kernel)
    patches = x.new_ones(len(x), size + intercept, math.prod(places))
    patches[:, :size].view(view.shape).copy_(view)
    return patches.mT
