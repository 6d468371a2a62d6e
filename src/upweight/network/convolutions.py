"""Convolutions whose second derivatives are convolutions of torch's fast kernels; its own leave them on a processor."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from ..types import Tensor

Settings = tuple[Any, ...]
"""Stride, padding, dilation, transposed, output padding, groups."""
aten = torch.ops.aten


@contextmanager
def fast_convolutions(model: torch.nn.Module) -> Iterator[None]:
    """Inside, the model's plain convolutions can be differentiated twice at the price of six convolutions.

    Not for torch.func, which knows no rule for them, and not for derivatives in a cotangent alone: they take all.
    """
    with ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, torch.nn.modules.conv._ConvNd) and _plain(module):
                plain = module._conv_forward
                module._conv_forward = functools.partial(_convolved, module, plain)  # type: ignore[method-assign]
                stack.callback(module.__dict__.pop, "_conv_forward")
        yield


def _plain(module: Any) -> bool:
    """Whether a layer does what its settings say, with numbers for its padding."""
    own = getattr(type(module), "_conv_forward", None)
    kinds = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
    known = own in [kind._conv_forward for kind in kinds] and "_conv_forward" not in module.__dict__
    return known and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _convolved(module: Any, plain: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if inputs.ndim != weight.ndim:  # one example without its dimension
        return plain(inputs, weight, bias)
    none = (0,) * len(module.stride)
    settings = (module.stride, module.padding, module.dilation, False, none, module.groups)
    return _Convolution.apply(inputs, weight, bias, settings)


class _Convolution(torch.autograd.Function):
    """y = x * W + b."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor | None, settings: Settings) -> Tensor:
        ctx.save_for_backward(x, W)
        ctx.settings, ctx.bias = settings, None if b is None else list(b.shape)
        return aten.convolution(x, W, b, *settings)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, W = ctx.saved_tensors
        return *_First.apply(dy, x, W, ctx.bias, ctx.settings, ctx.needs_input_grad[:3]), None


class _First(torch.autograd.Function):
    """The derivatives in x, W and b from that in y, dy: bilinear in (dy, W), in (x, dy), and linear in dy."""

    @staticmethod
    def forward(
        ctx: Any, dy: Tensor, x: Tensor, W: Tensor, bias: list[int] | None, settings: Settings, wanted: Any
    ) -> Any:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(dy, x, W)
        ctx.settings = settings
        return aten.convolution_backward(dy, x, W, bias, *settings, wanted)

    @staticmethod
    def backward(ctx: Any, to_x: Tensor | None, to_W: Tensor | None, to_b: Tensor | None) -> Any:
        dy, x, W = ctx.saved_tensors
        back = functools.partial(aten.convolution_backward, dy)
        parts, in_x, in_W = [], None, None
        if to_x is not None:
            parts.append(aten.convolution(to_x, W, None, *ctx.settings))
            if ctx.needs_input_grad[2]:
                in_W = back(to_x, W, None, *ctx.settings, [False, True, False])[1]
        if to_W is not None:
            parts.append(aten.convolution(x, to_W, to_b, *ctx.settings))
            if ctx.needs_input_grad[1]:
                in_x = back(x, to_W, None, *ctx.settings, [True, False, False])[0]
        elif to_b is not None:
            parts.append(to_b.view(-1, *[1] * (dy.ndim - 2)).expand_as(dy))
        in_dy = sum(parts[1:], parts[0]) if parts else None
        return in_dy, in_x, in_W, None, None, None
