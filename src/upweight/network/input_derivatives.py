"""Mixed derivatives in parameters and inputs: what Eq. 5 asks of a network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vmap

from ..errors import DerivativeError
from ..types import Tensor
from .comparisons import (
    central,
    direction,
    gap_to_differences,
    head,
    in_float64,
    plain_gradient,
    within_rounding,
)
from .curvature_products import STEP, Mode
from .engines import INPUTS, right_engine
from .evaluation import ROWS_AT_ONCE, Evaluation
from .modules import layer_inputs, real_inputs

Rebuild = Callable[[Any], Any]
"""Makes a batch of something in the place of the inputs."""


def input_gradients(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, rows: Float[Tensor, "k p"], at: str | None
) -> Float[Tensor, "k b *x"]:
    """The derivative of s . grad L(z) in the inputs of z.

    Args:
        of: the model with its loss L.
        theta: where the gradients are taken (p,).
        batch: b examples z; one alone where `at` is given and the model does not see batches.
        rows: k vectors s, (k, p).
        at: a layer whose outputs take the place of the inputs.

    Returns:
        One array of the inputs' shape x per vector and example, (k, b, *x).
    """
    mode = right_engine(of, theta, lambda: head(batch), "forward", INPUTS, functools.partial(_gap, at=at))
    if mode is None:
        raise DerivativeError(
            "torch has no right second derivative of the model in parameters and inputs: compare edited inputs with "
            "of_change"
        )
    if mode == "loop":
        of, theta, batch = in_float64(of, theta, batch)
    with _entry(of, theta, batch, at) as (inputs, rebuild):
        parts = [
            _towards(of, theta, inputs, rebuild, part, mode) for part in rows.to(theta).split(ROWS_AT_ONCE)
        ]
    return torch.cat(parts).to(rows)


def _entry(of: Evaluation, theta: Tensor, batch: Any, at: str | None) -> Any:
    """A context that gives what is differentiated, and the function that makes a batch of something in its place."""
    if at is None:
        return nullcontext(real_inputs(batch))
    return layer_inputs(of.model, at, batch, functools.partial(of.call, theta, batch))


def _towards(
    of: Evaluation, theta: Tensor, inputs: Tensor, rebuild: Rebuild, rows: Tensor, mode: Mode
) -> Tensor:
    """The gradient in the inputs x of sum_i s . grad l_i, for every row s: (k, b, ...). Examples do not mix."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return plain_gradient(lambda x: of.losses(t, rebuild(x)).sum(), x)

    def forward(row: Tensor) -> Tensor:
        # Forward over reverse: reverse over forward is silently wrong where torch's forward derivative of a layer takes
        # what it saved for constant (layer, instance and training-mode batch norm in torch 2.13).
        of_inputs = grad(lambda x, t: of.losses(t, rebuild(x)).sum())
        return jvp(lambda t: of_inputs(inputs, t), (theta,), (row,))[1]

    def double(row: Tensor) -> Tensor:
        x, t = inputs.clone().requires_grad_(), theta.clone().requires_grad_()
        with torch.enable_grad():
            first = torch.autograd.grad(of.losses(t, rebuild(x)).sum(), t, create_graph=True)[0]
        return torch.autograd.grad(first @ row, x, materialize_grads=True)[0]

    def differences(row: Tensor) -> Tensor:
        size = float(row.abs().max())
        return (
            central(lambda t: slope(inputs, t), theta, row / size)(STEP).value * size if size else 0 * inputs
        )

    ways = {"forward": forward, "double": double, "loop": differences}
    if mode == "forward":
        return of.shortcuts.go(
            f"{INPUTS} of many vectors",
            f"{INPUTS} is taken vector by vector",
            lambda: vmap(forward)(rows),
            lambda: torch.stack([forward(row) for row in rows]),
            lambda found: within_rounding(found[0], forward(rows[0]), of.coarsest),
        )
    return torch.stack([ways[mode](row) for row in rows])


def _gap(of: Evaluation, theta: Tensor, batch: Any, mode: Mode, at: str | None) -> float:
    """How far it is off differences of input gradients, along a random direction of the parameters."""
    of, theta, batch = in_float64(of, theta, batch)
    v = direction(plain_gradient(lambda t: of.losses(t, batch).sum(), theta))
    with _entry(of, theta, batch, at) as (inputs, rebuild):
        claimed = _towards(of, theta, inputs, rebuild, v[None], mode)[0]

        def slope(t: Tensor) -> Tensor:
            return plain_gradient(lambda x: of.losses(t, rebuild(x)).sum(), inputs)

        if mode == "loop" and theta.dtype != torch.float64:
            raise NotImplementedError("the model does not compute in float64")
        return gap_to_differences(claimed, central(slope, theta, v), coarsest=of.coarsest)
