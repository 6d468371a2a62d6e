"""Dense layers inside a step: their weights' second derivatives as outer products, never written out.

Where a weight W is used in one product z = a W^T alone, a step's gradient in it is delta^T a. For a direction U the
product of the two, <delta, a U^T>, has the derivatives zeta in z and eta in the derivative delta W that goes back to a,
and then zeta^T a + delta^T eta in W: small tensors, and one matrix product that is added where it belongs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..types import Params, Tensor

LOOKS = frozenset(
    {"__get__", "size", "dim", "numel", "stride", "is_floating_point", "is_complex", "is_contiguous"}
)
"""What is asked of a tensor without computing with it."""


class _Through(torch.autograd.Function):
    """The identity, whose derivative has another tensor added: what is derived in that tells what went back here."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, f: Tensor) -> Tensor:
        ctx.save_for_backward(f)
        return a.view_as(a)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        (f,) = ctx.saved_tensors
        return g + f, None


@dataclass(eq=False)
class Tap:
    """One use of a weight in a product: what went in, and where derivatives are taken.

    Args:
        a: what went in (..., in).
        e: zeros (..., out), added to what came out.
        f: zeros (..., in), added to the derivative that goes back to what went in; None where none goes.
        across: whether the weight stands as (in, out), as in GPT-2's `Conv1D`.
    """

    a: Tensor
    e: Tensor
    f: Tensor | None
    across: bool

    @property
    def inputs(self) -> Tensor:
        """What went in (b, in), all positions one after the other."""
        return self.a.detach().flatten(0, -2)

    def gradient(self, delta: Tensor) -> Tensor:
        """The gradient in the weight, from that in what came out."""
        delta = delta.detach().flatten(0, -2)
        return self.inputs.T @ delta if self.across else delta.T @ self.inputs

    def along(self, direction: Tensor, delta: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cotangents (m, ...) of delta and of `a` in <delta, a U^T>, for m directions U of the weight."""
        m, inputs = len(direction), self.inputs
        columns = direction.transpose(1, 2) if self.across else direction  # (m, out, in)
        found = torch.bmm(inputs.expand(m, -1, -1), columns.transpose(1, 2)).reshape(m, *delta.shape)
        if self.f is None:
            return found, None
        return found, (delta.detach().flatten(0, -2) @ columns).reshape(m, *self.a.shape)

    def add(self, to: Tensor, delta: Tensor, zeta: Tensor, eta: Tensor | None, factor: float) -> None:
        """Add factor (zeta^T a + delta^T eta) to m matrices.

        Args:
            to: the matrices, shaped as the weight is.
            delta: the derivative of the step's loss in what came out.
            zeta: m derivatives in what came out.
            eta: m derivatives in what went back to what came in, or None.
            factor: a number.
        """
        m, inputs = len(to), self.inputs
        zeta = zeta.reshape(m, len(inputs), -1)
        delta = delta.detach().flatten(0, -2).expand(m, -1, -1)
        if self.across:
            to.baddbmm_(inputs.T.expand(m, -1, -1), zeta, alpha=factor)
            if eta is not None:
                to.baddbmm_(eta.reshape(m, len(inputs), -1).transpose(1, 2), delta, alpha=factor)
            return
        to.baddbmm_(zeta.transpose(1, 2), inputs.expand(m, -1, -1), alpha=factor)
        if eta is not None:
            to.baddbmm_(delta.transpose(1, 2), eta.reshape(m, len(inputs), -1), alpha=factor)


class Tapped(NamedTuple):
    """A product that was tapped: the name of its weight, and the derivative of the step's loss in what came out."""

    name: str
    tap: Tap
    delta: Tensor


class Taps(TorchFunctionMode):
    """Inside it products with some weights are tapped.

    Args:
        weights: by name, those that are used in one product each.
    """

    def __init__(self, weights: Params) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in weights.items()}
        self.found: dict[str, Tap] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        place = _product(func, args, kwargs)
        if place is None or (name := self._names.get(id(args[place]))) is None:
            return func(*args, **kwargs)
        across, given = func is not F.linear, 0 if func is F.linear else 1
        a = args[given]
        goes_back = a.requires_grad
        f = torch.zeros_like(a, requires_grad=True) if goes_back else None
        own = list(args)
        own[given] = a if f is None else _Through.apply(a, f)
        own[place] = args[place].detach()
        z = func(*own, **kwargs)
        e = torch.zeros_like(z, requires_grad=True)
        self.found[name] = Tap(a, e, f, across)
        return z + e


def _product(func: Any, args: Any, kwargs: Any) -> int | None:
    """Where the weight stands among the arguments of a product of a dense layer; None for anything else."""
    if func is F.linear and len(args) >= 2:
        return 1
    if func is torch.addmm and len(args) == 3 and not kwargs:
        return 2
    return None


class _Uses(TorchFunctionMode):
    """Counts what is computed with some tensors, and how often that is a product of a dense layer."""

    def __init__(self, weights: Params) -> None:
        super().__init__()
        self._names = {id(value): name for name, value in weights.items()}
        self.all, self.products = dict.fromkeys(weights, 0), dict.fromkeys(weights, 0)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") not in LOOKS:
            for leaf in tree_leaves((args, kwargs or {})):
                if (name := self._names.get(id(leaf))) is not None:
                    self.all[name] += 1
            place = _product(func, args, kwargs or {})
            if place is not None and (name := self._names.get(id(args[place]))) is not None:
                self.products[name] += 1
        return func(*args, **(kwargs or {}))


def dense_weights(leaves: Params, call: Callable[[], Any]) -> tuple[str, ...]:
    """The weights that a call of the model uses in one product of a dense layer, and nowhere else.

    Args:
        leaves: the parameters of the call, by name.
        call: the call.
    """
    with _Uses(leaves) as uses:
        call()
    return tuple(
        name
        for name, value in leaves.items()
        if value.ndim == 2 and uses.all[name] == uses.products[name] == 1
    )
