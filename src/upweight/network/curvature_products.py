"""Products with the curvature of one batch, by two engines.

Forward over reverse (torch.func) keeps little; double backward makes a graph once, which serves many products.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten

from ..runtime.fallback import attempt
from ..types import Operator, Tensor
from .convolutions import fast_convolutions
from .evaluation import ROWS_AT_ONCE, Evaluation

Mode: TypeAlias = Literal["forward", "double"]
"""Forward over reverse, which keeps little, or double backward, whose graph is made once and then kept."""


def hessian_product(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, weights: Float[Tensor, " b"], mode: Mode
) -> Operator:
    """The product with the Hessian of sum_i w_i l_i over a batch.

    Args:
        of: the model with its loss l.
        theta: where the derivatives are taken (p,).
        batch: b examples.
        weights: their weights w (b,).
        mode: which engine.

    Returns:
        The function rows (k, p) -> rows H (k, p), without penalty.
    """

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


def gauss_newton_product(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, weights: Float[Tensor, " b"], mode: Mode
) -> Operator:
    """The product with J^T H_out J over a batch: J the Jacobian of the outputs, H_out the loss's Hessian in them.

    Args:
        of: the model with its loss.
        theta: where the derivatives are taken (p,).
        batch: b examples.
        weights: their weights w (b,).
        mode: which engine.

    Returns:
        The function rows (k, p) -> rows J^T H_out J (k, p), without penalty.
    """

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
    outputs: Operator, value: Callable[[Any], Tensor], theta: Tensor, at_once: int
) -> Operator:
    """By backward passes alone; J v is the derivative of J^T u in u (the double backward trick)."""
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


def _many(product: Operator) -> Operator:
    """A product of one row -> that of k rows, a few at a time."""
    several = vmap(product)

    def few(rows: Tensor) -> Tensor:
        if len(rows) == 1:
            return product(rows[0])[None]
        return attempt(lambda: several(rows), lambda: torch.stack([product(row) for row in rows]))

    return lambda rows: torch.cat([few(part) for part in rows.split(ROWS_AT_ONCE)])
