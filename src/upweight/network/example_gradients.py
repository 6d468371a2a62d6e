"""First derivatives of per-example losses in the parameters: by torch.func, or example by example where it cannot."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float
from torch.func import grad, jvp, vmap

from ..data.per_example import Loss
from ..types import Tensor
from .comparisons import FEW, code_of, gap_to_plain, head, plain_gradients
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

    def plain(of: Evaluation, theta: Tensor, batch: Any) -> Tensor:
        return plain_gradients(of, theta, batch, function)

    return of.shortcuts.go(
        ("gradients by vmap", code_of(function)),
        "gradients are taken example by example",
        lambda: vmap(grad(one), (None, 0))(theta, batch),
        lambda: plain(of, theta, batch),
        lambda found: gap_to_plain(found[:FEW], plain, of, theta, head(batch)),
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

    def plain(of: Evaluation, theta: Tensor, batch: Any) -> Tensor:
        return rows.to(theta) @ plain_gradients(of, theta, batch).T

    return of.shortcuts.go(
        "gradients in forward mode",
        "products with gradients are taken from the gradients themselves",
        lambda: vmap(along)(rows),
        lambda: rows @ example_gradients(of, theta, batch).T,
        lambda found: gap_to_plain(found[:, :FEW], plain, of, theta, head(batch)),
    )
