"""Values and derivatives of per-example losses, as functions of one flat parameter vector.

Two engines: torch.func (forward mode and vmap), and plain double backward in a loop for what torch.func cannot do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, TypeAlias, TypeVar, final

import torch
from torch.func import functional_call, grad, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_map

from ..data.examples import batched, count, examples, targets_of
from ..data.per_example import Loss, each, number, per_example
from ..linalg.flat_vectors import Layout
from ..runtime.fallback import attempt, out_of_memory
from ..types import Params, Tensor
from .convolutions import fast_convolutions
from .modules import twice_differentiable
from .transformers import arguments, counted

Product: TypeAlias = Callable[[Tensor], Tensor]
"""Rows (k, p) -> rows (k, p)."""
Mode: TypeAlias = Literal["forward", "double"]
"""Forward over reverse, which keeps little, or double backward, whose graph is made once and then kept."""
T = TypeVar("T")

ROWS_AT_ONCE = 16
"""Right-hand sides per vmapped call: bounds memory, more gain nothing."""


def _like(leaf: Any, theta: Tensor) -> Any:
    """Numbers in theta's precision, anything else as it is."""
    return leaf.to(theta.dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


@final
class Evaluation:
    """A model with its loss at any theta, without touching the model: everything is a functional call.

    `strategy` says how outputs of a batch come about: the model on the whole "batch", or on batches of one, "vmapped"
    or in a "loop". `choose` finds the first that agrees with the loop.
    """

    def __init__(self, model: torch.nn.Module, loss: Loss, layout: Layout, fixed: Params) -> None:
        self.model, self.loss, self.layout, self.fixed = model, loss, layout, fixed
        self.strategy: Literal["batch", "vmapped", "loop"] = "loop"
        self.autocast: torch.dtype | None = None
        """What the model computes in, where that is less than theta's precision; outputs have theta's."""
        # Many cotangents at once make the weight gradient of a convolution a grouped one, slower than one by one.
        convolves = any(isinstance(module, torch.nn.modules.conv._ConvNd) for module in model.modules())
        self.rows_at_once = 1 if convolves else ROWS_AT_ONCE

    def call(self, theta: Tensor, batch: Any) -> Any:
        """The model's outputs for a batch, at theta."""
        state = {**self.fixed, **self.layout.unpack(theta)}
        args = ((), arguments(self.model, batch)) if isinstance(batch, dict) else ((batch[0],),)
        with twice_differentiable(self.model):
            if self.autocast is None:
                return counted(functional_call(self.model, state, *args))
            with torch.autocast(theta.device.type, self.autocast):
                outputs = counted(functional_call(self.model, state, *args))
        return tree_map(lambda leaf: _like(leaf, theta), outputs)

    def one(self, theta: Tensor, example: Any, function: Loss | None = None) -> Tensor:
        """The loss (or measure) of one example without its batch dimension."""
        batch = batched(example)
        return number((function or self.loss)(self.call(theta, batch), targets_of(batch)))

    def outputs(self, theta: Tensor, batch: Any) -> Any:
        """Outputs with the example first; batches of one keep their own dimension of 1 behind it."""
        if self.strategy == "batch":
            return self.call(theta, batch)
        if self.strategy == "vmapped":
            return vmap(lambda example: self.call(theta, batched(example)))(batch)
        parts = [self.call(theta, batched(example)) for example in examples(batch)]
        return tree_map(lambda *leaves: torch.stack(leaves), *parts)

    def measured(self, outputs: Any, batch: Any, function: Loss | None = None) -> Tensor:
        """The loss (or measure) of each example from `outputs`."""
        function = function or self.loss
        if self.strategy == "batch":
            return per_example(function, outputs, targets_of(batch))
        return each(lambda o, y: number(function(o, batched(y))), outputs, targets_of(batch))

    def losses(self, theta: Tensor, batch: Any, function: Loss | None = None) -> Tensor:
        """The loss (or measure) of each example: (b,)."""
        return self.measured(self.outputs(theta, batch), batch, function)

    def choose(self, theta: Tensor, batch: Any) -> None:
        """Set `strategy` by a trial; refuse models and losses that mix examples."""
        try:
            parts = [self.call(theta, batched(example)) for example in examples(batch)]
            singles = torch.stack([self.one(theta, example) for example in examples(batch)])
        except Exception as error:
            raise ValueError(
                f"model and loss could not be evaluated on a batch of one example: {type(error).__name__}: {error}"
            ) from error
        if not bool(singles.isfinite().all()):
            raise ValueError(
                "the loss is not finite for some of the first examples tried: check model and data"
            )
        together = _together(lambda: self.call(theta, batch), parts, count(batch))
        if together is not None:
            self._check_loss(together, batch, singles)
        self.strategy = "batch" if together is not None else "vmapped"
        if self.strategy == "vmapped":
            self.strategy = attempt(
                lambda: "vmapped" if _close(self.losses(theta, batch), singles) else "loop", lambda: "loop"
            )

    def _check_loss(self, outputs: Any, batch: Any, singles: Tensor) -> None:
        """loss(batch) must be the losses of its examples, their mean or their sum."""
        try:
            direct = self.loss(outputs, targets_of(batch)).flatten()
        except Exception:
            return  # a loss for single examples only
        if direct.numel() == len(singles):
            right = _close(direct, singles)
        elif direct.numel() == 1:
            right = _close(direct[0], singles.mean()) or _close(direct[0], singles.sum())
        else:
            return
        if not right:
            raise ValueError(
                f"the loss mixes examples: for {len(singles)} examples it gives {direct.tolist()}, one by one they "
                f"give {singles.tolist()}; influence needs a loss that is a sum or mean over examples: give one that "
                "returns one number per example (reduction='none', class weights passed as weights=; for language "
                "models upweight.losses.next_token)"
            )


# -- first derivatives -------------------------------------------------------------------------------------------------


def example_gradients(of: Evaluation, theta: Tensor, batch: Any, function: Loss | None = None) -> Tensor:
    """The gradient of every example's loss (or measure): (b, p)."""

    def one(theta: Tensor, example: Any) -> Tensor:
        return of.one(theta, example, function)

    def alone(example: Any) -> Tensor:
        return plain_gradient(lambda t: one(t, example), theta)

    def slow() -> Tensor:
        return torch.stack([alone(example) for example in examples(batch)])

    return attempt(lambda: vmap(grad(one), (None, 0))(theta, batch), slow)


def plain_gradient(function: Callable[[Tensor], Tensor], theta: Tensor) -> Tensor:
    """The gradient of a number by one backward pass; zeros where it does not depend on theta."""
    at = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = function(at)
    return (
        torch.autograd.grad(value, at, materialize_grads=True)[0]
        if value.requires_grad
        else torch.zeros_like(at)
    )


def directional(of: Evaluation, theta: Tensor, batch: Any, rows: Tensor) -> Tensor:
    """The numbers s . grad l_i for every row s and example i, in forward mode: (k, b)."""

    def along(row: Tensor) -> Tensor:
        return jvp(lambda t: of.losses(t, batch), (theta,), (row,))[1]

    return attempt(lambda: vmap(along)(rows), lambda: rows @ example_gradients(of, theta, batch).T)


def input_directional(
    of: Evaluation, theta: Tensor, inputs: Tensor, rebuild: Callable[[Any], Any], rows: Tensor
) -> Tensor:
    """The gradient in the inputs x of sum_i s . grad l_i, for every row s: (k, b, ...). Examples do not mix."""

    def towards(row: Tensor) -> Tensor:
        # Forward over reverse: reverse over forward is silently wrong where torch's forward derivative of a layer takes
        # what it saved for constant (layer, instance and training-mode batch norm in torch 2.13).
        slope = grad(lambda x, t: of.losses(t, rebuild(x)).sum())
        return jvp(lambda t: slope(inputs, t), (theta,), (row,))[1]

    def slow() -> Tensor:
        found = []
        for row in rows:
            x, at = inputs.clone().requires_grad_(), theta.clone().requires_grad_()
            first = torch.autograd.grad(of.losses(at, rebuild(x)).sum(), at, create_graph=True)[0]
            found.append(torch.autograd.grad(first @ row, x, materialize_grads=True)[0])
        return torch.stack(found)

    return attempt(lambda: vmap(towards)(rows), slow)


# -- second derivatives ------------------------------------------------------------------------------------------------


def hessian_product(of: Evaluation, theta: Tensor, batch: Any, weights: Tensor, mode: Mode) -> Product:
    """The function rows -> rows H with H the Hessian of sum_i w_i l_i over the batch."""

    def value(t: Tensor) -> Tensor:
        return of.losses(t, batch) @ weights

    if mode == "forward":
        return _many(lambda row: jvp(grad(value), (theta,), (row,))[1])
    # A view of theta: a copy for every kept block would add up.
    at = theta.detach().requires_grad_()
    together = of.strategy == "batch" and theta.device.type == "cpu"
    with torch.enable_grad(), fast_convolutions(of.model) if together else nullcontext():
        first = torch.autograd.grad(value(at), at, create_graph=True)[0]
    return lambda rows: _pull(first, at, rows, of.rows_at_once)


def gauss_newton_product(of: Evaluation, theta: Tensor, batch: Any, weights: Tensor, mode: Mode) -> Product:
    """The function rows -> rows J^T H_out J: J the Jacobian of the outputs, H_out the Hessian of the loss in them."""

    def outputs(t: Tensor) -> Any:
        return of.outputs(t, batch)

    def value(o: Any) -> Tensor:
        return of.measured(o, batch) @ weights

    if mode == "double":
        return _double_gauss_newton(outputs, value, theta, of.rows_at_once)
    there, pull = vjp(outputs, theta)[:2]

    def product(row: Tensor) -> Tensor:
        tangent = jvp(outputs, (theta,), (row,))[1]
        return pull(jvp(grad(value), (there,), (tangent,))[1])[0]

    return _many(product)


def _double_gauss_newton(
    outputs: Product, value: Callable[[Any], Tensor], theta: Tensor, at_once: int
) -> Product:
    """The same by backward passes alone; J v is the derivative of J^T u in u (the double backward trick)."""
    at = theta.detach().requires_grad_()
    with torch.enable_grad():
        leaves, spec = tree_flatten(outputs(at))
        flat = torch.cat([leaf.flatten() for leaf in leaves])
        sizes, shapes = [leaf.numel() for leaf in leaves], [leaf.shape for leaf in leaves]

        def of_flat(o: Tensor) -> Tensor:
            parts = [part.view(shape) for part, shape in zip(o.split(sizes), shapes, strict=True)]
            return value(spec.unflatten(parts))

        u = torch.zeros_like(flat, requires_grad=True)
        back = torch.autograd.grad(flat, at, u, create_graph=True, materialize_grads=True)[0]
        o = flat.detach().requires_grad_()
        slope = torch.autograd.grad(of_flat(o), o, create_graph=True, materialize_grads=True)[0]
    return lambda rows: _pull(flat, at, _pull(slope, o, _pull(back, u, rows, at_once), at_once), at_once)


def _pull(vector: Tensor, at: Tensor, rows: Tensor, at_once: int) -> Tensor:
    """Products rows J of a differentiated vector, `at_once` where torch can; its graph is kept."""
    if not vector.requires_grad:
        return rows.new_zeros(len(rows), len(at))

    def pulled(cotangent: Tensor, many: bool) -> Tensor:
        found = torch.autograd.grad(
            vector, at, cotangent, retain_graph=True, is_grads_batched=many, materialize_grads=True
        )
        return found[0].detach()

    def few(rows: Tensor) -> Tensor:
        def one_by_one() -> Tensor:
            return torch.stack([pulled(row, False) for row in rows])

        return one_by_one() if len(rows) == 1 else attempt(lambda: pulled(rows, True), one_by_one)

    return torch.cat([few(part) for part in rows.split(at_once)])


def _many(product: Product) -> Product:
    """A product of one row -> the same for k rows, a few at a time."""
    several = vmap(product)

    def few(rows: Tensor) -> Tensor:
        if len(rows) == 1:
            return product(rows[0])[None]
        return attempt(lambda: several(rows), lambda: torch.stack([product(row) for row in rows]))

    return lambda rows: torch.cat([few(part) for part in rows.split(ROWS_AT_ONCE)])


def memory_of(of: Evaluation, theta: Tensor, batch: Any) -> int:
    """Bytes that automatic differentiation keeps per example; 1 MiB where torch does not tell."""
    seen: dict[tuple[int, int], int] = {}
    own = theta.detach().clone().requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() != own.untyped_storage().data_ptr():
            seen[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
        return tensor

    def measure() -> int:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            of.losses(own, batch).sum()
        return sum(seen.values()) // count(batch) + 1

    return attempt(measure, lambda: 1 << 20)


def _together(call: Callable[[], Any], parts: list[Any], b: int) -> Any:
    """Outputs of the whole batch if they are those of its examples, None if they cannot be compared."""
    try:
        outputs = call()
    except Exception as error:
        if out_of_memory(error):
            raise
        return None
    leaves, spec = tree_flatten(outputs)
    singles = [tree_flatten(part)[0] for part in parts]
    if tree_flatten(parts[0])[1] != spec or not all(isinstance(leaf, Tensor) for leaf in leaves):
        return None
    for place, leaf in enumerate(leaves):
        shapes = {tuple(single[place].shape) for single in singles}
        if shapes != {(1, *leaf.shape[1:])} or len(leaf) != b:
            return None
        if not _close(leaf, torch.cat([single[place] for single in singles])):
            raise ValueError(
                "the model's outputs for an example depend on the other examples of its batch (batch statistics?), so "
                "no example has a loss of its own: call model.eval(), or replace such layers (BatchNorm without "
                "running statistics by GroupNorm)"
            )
    return outputs


def _close(a: Tensor, b: Tensor) -> bool:
    if not b.is_floating_point():
        return bool((a == b).all())
    eps = torch.finfo(b.dtype).eps
    return bool((a - b).abs().max() <= 10 * eps**0.5 * b.abs().max() + 1000 * eps)
