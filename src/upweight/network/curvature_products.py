"""Products with the curvature of one batch, by two engines.

Forward over reverse (torch.func) keeps little; double backward makes a graph once, which serves many products.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vjp, vmap
from torch.utils._pytree import tree_flatten, tree_leaves

from ..data.examples import examples
from ..types import Operator, Tensor
from .comparisons import central, in_float64, plain_gradient, within_rounding
from .convolutions import fast_convolutions
from .evaluation import ROWS_AT_ONCE, Evaluation
from .output_curvature import output_roots, plainly_through_outputs

Mode: TypeAlias = Literal["forward", "double", "loop"]
"""Forward over reverse, which keeps little; double backward, whose graph is made once and then kept; or first
derivatives alone: of the Hessian differences of gradients, of the Gauss-Newton matrix a backward pass per output."""
STEP = 1e-6
"""Step of differences of gradients in float64, over the size of the parameters: rounding then costs 1e-10 about."""


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

    if mode == "loop":
        return _by_differences(of, theta, batch, weights)
    if mode == "forward":
        return _many(of, "the Hessian", lambda row: jvp(grad(value), (theta,), (row,))[1])
    # A view of theta: a copy for every kept block would add up.
    at = theta.detach().requires_grad_()
    together = of.strategy == "batch" and theta.device.type == "cpu"
    with torch.enable_grad(), fast_convolutions(of.model) if together else nullcontext():
        first = torch.autograd.grad(value(at), at, create_graph=True)[0]
    return lambda rows: _pull(of, "the Hessian", first, at, rows)


def _by_differences(of: Evaluation, theta: Tensor, batch: Any, weights: Tensor) -> Operator:
    """By differences of gradients in float64: slow, and right for every model that computes in float64."""
    of, wide, batch = in_float64(of, theta, batch)
    if wide.dtype != torch.float64:
        raise NotImplementedError(
            "the model does not compute in float64, which differences of gradients need"
        )
    w = weights.to(wide)

    def gradient(t: Tensor) -> Tensor:
        return plain_gradient(lambda t: of.losses(t, batch) @ w, t)

    def one(row: Tensor) -> Tensor:
        size = float(row.abs().max())
        return central(gradient, wide, row / size)(STEP).value * size if size else torch.zeros_like(row)

    return lambda rows: torch.stack([one(row) for row in rows.to(wide)]).to(rows)


class GaussNewtonParts(NamedTuple):
    """The factors of J^T H_out J over a batch, outputs as one flat vector o: products of rows from right to left."""

    outputs: Operator
    """Theta (p,) -> the outputs (o,)."""
    tangent: Operator
    """Rows (k, p) -> rows J (k, o)."""
    curve: Operator
    """Rows (k, o) -> rows H_out (k, o)."""
    back: Operator
    """Rows (k, o) -> rows J^T (k, p)."""

    def product(self, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
        """Rows J^T H_out J."""
        return self.back(self.curve(self.tangent(rows)))


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
    if mode == "loop":
        return _by_jacobians(of, theta, batch, weights)
    return gauss_newton_parts(of, theta, batch, weights, mode).product


def gauss_newton_parts(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, weights: Float[Tensor, " b"], mode: Mode
) -> GaussNewtonParts:
    """J, H_out and J^T of a batch by the engine "double" or "forward".

    Args:
        of: the model with its loss.
        theta: where the derivatives are taken (p,).
        batch: b examples.
        weights: their weights w (b,).
        mode: which engine.
    """

    def outputs(t: Tensor) -> Tensor:
        return torch.cat([leaf.flatten() for leaf in tree_leaves(of.outputs(t, batch))])

    with torch.no_grad():
        leaves, spec = tree_flatten(of.outputs(theta, batch))
    sizes, shapes = [leaf.numel() for leaf in leaves], [leaf.shape for leaf in leaves]

    def value(o: Tensor) -> Tensor:
        parts = [part.view(shape) for part, shape in zip(o.split(sizes), shapes, strict=True)]
        return of.measured(spec.unflatten(parts), batch) @ weights

    if mode == "double":
        return _double_gauss_newton(of, outputs, value, theta)
    there, pull = vjp(outputs, theta)[:2]
    return GaussNewtonParts(
        outputs,
        _many(of, "the Jacobian", lambda row: jvp(outputs, (theta,), (row,))[1]),
        _many(of, "the loss's curvature", lambda row: jvp(grad(value), (there,), (row,))[1]),
        _many(of, "the Jacobian transposed", lambda row: pull(row)[0]),
    )


def _double_gauss_newton(
    of: Evaluation, outputs: Operator, value: Operator, theta: Tensor
) -> GaussNewtonParts:
    """By backward passes alone; J v is the derivative of J^T u in u (the double backward trick)."""
    at = theta.detach().requires_grad_()
    with torch.enable_grad():
        flat = outputs(at)
        u = torch.zeros_like(flat, requires_grad=True)
        back = torch.autograd.grad(flat, at, u, create_graph=True, materialize_grads=True)[0]
        o = flat.detach().requires_grad_()
        slope = torch.autograd.grad(value(o), o, create_graph=True, materialize_grads=True)[0]
    return GaussNewtonParts(
        outputs,
        lambda rows: _pull(of, "the Jacobian", back, u, rows),
        lambda rows: _pull(of, "the loss's curvature", slope, o, rows),
        lambda rows: _pull(of, "the Jacobian transposed", flat, at, rows),
    )


def _by_jacobians(of: Evaluation, theta: Tensor, batch: Any, weights: Tensor) -> Operator:
    """By a backward pass per output of every example, each time: slow, and right for every model."""
    S, sign = output_roots(of, theta, batch)
    every = torch.arange(len(theta), device=theta.device)

    def product(rows: Tensor) -> Tensor:
        total = torch.zeros_like(rows)
        for i, example in enumerate(examples(batch)):
            P = plainly_through_outputs(of, theta, example, S[i], every)
            total += weights[i] * (rows @ P.T * sign[i]) @ P
        return total

    return product


def _pull(of: Evaluation, what: str, vector: Tensor, at: Tensor, rows: Tensor) -> Tensor:
    """Products rows J of a differentiated vector, several at once where torch can; its graph is kept."""
    if not vector.requires_grad:
        return rows.new_zeros(len(rows), len(at))

    def pulled(cotangent: Tensor, many: bool) -> Tensor:
        found = torch.autograd.grad(
            vector, at, cotangent, retain_graph=True, is_grads_batched=many, materialize_grads=True
        )
        return found[0].detach()

    many = Both(lambda row: pulled(row, False), lambda rows: pulled(rows, True))
    return _several(of, f"{what} by double backward", many, rows, of.rows_at_once)


def _many(of: Evaluation, what: str, product: Operator) -> Operator:
    """A product of one row -> that of k rows, a few at a time."""
    both = Both(product, vmap(product))
    return lambda rows: _several(of, f"{what} in forward mode", both, rows, ROWS_AT_ONCE)


class Both(NamedTuple):
    """A product of one row, and the same of k rows."""

    one: Operator
    many: Operator


def _several(of: Evaluation, what: str, product: Both, rows: Tensor, at_once: int) -> Tensor:
    """The products of k rows, `at_once` where torch can and where that is right for the first of them."""

    def loop(rows: Tensor) -> Tensor:
        return torch.stack([product.one(row) for row in rows])

    def few(rows: Tensor) -> Tensor:
        if len(rows) == 1:
            return loop(rows)
        return of.shortcuts.go(
            f"products of many vectors with {what}",
            f"products with {what} are taken vector by vector",
            lambda: product.many(rows),
            lambda: loop(rows),
            lambda found: within_rounding(found[0], product.one(rows[0]), of.coarsest),
        )

    return torch.cat([few(part) for part in rows.split(at_once)])
