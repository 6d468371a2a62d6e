"""First derivatives of per-example losses in the parameters: by torch.func, or example by example where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vmap

from ..data.examples import examples
from ..data.per_example import Loss
from ..runtime.fallback import attempt
from ..types import Tensor
from .evaluation import Evaluation


def example_gradients(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, function: Loss | None = None
) -> Float[Tensor, "b p"]:
    """The gradient of every example's loss.

    Args:
        of: the model with its loss.
        theta: where the gradients are taken (p,).
        batch: b examples.
        function: what is asked about in place of the loss, a number per example.

    Returns:
        One gradient per example, (b, p), without weights and penalty.
    """

    def one(theta: Tensor, example: Any) -> Tensor:
        return of.one(theta, example, function)

    def alone(example: Any) -> Tensor:
        return plain_gradient(lambda t: one(t, example), theta)

    def slow() -> Tensor:
        return torch.stack([alone(example) for example in examples(batch)])

    return attempt(lambda: vmap(grad(one), (None, 0))(theta, batch), slow)


def plain_gradient(function: Callable[[Tensor], Tensor], theta: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """The gradient of a number by one backward pass; zeros where it does not depend on theta."""
    at = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = function(at)
    return (
        torch.autograd.grad(value, at, materialize_grads=True)[0]
        if value.requires_grad
        else torch.zeros_like(at)
    )


def directional(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, rows: Float[Tensor, "k p"]
) -> Float[Tensor, "k b"]:
    """The numbers s . grad l_i in forward mode, which forms no gradient.

    Args:
        of: the model with its loss.
        theta: where the gradients are taken (p,).
        batch: b examples.
        rows: k directions s, (k, p).

    Returns:
        One number per direction and example, (k, b).
    """

    def along(row: Tensor) -> Tensor:
        return jvp(lambda t: of.losses(t, batch), (theta,), (row,))[1]

    return attempt(lambda: vmap(along)(rows), lambda: rows @ example_gradients(of, theta, batch).T)
