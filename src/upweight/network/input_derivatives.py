"""Mixed derivatives in parameters and inputs: what Eq. 5 asks of a network."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vmap

from ..runtime.fallback import attempt
from ..types import Tensor
from .evaluation import ROWS_AT_ONCE, Evaluation
from .modules import layer_inputs, real_inputs


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
    entry = (
        nullcontext(real_inputs(batch))
        if at is None
        else layer_inputs(of.model, at, batch, functools.partial(of.call, theta, batch))
    )
    with entry as (inputs, rebuild):
        parts = [_directional(of, theta, inputs, rebuild, part) for part in rows.split(ROWS_AT_ONCE)]
    return torch.cat(parts)


def _directional(
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
