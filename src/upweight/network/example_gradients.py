"""First derivatives of per-example losses in the parameters: by torch.func, or example by example where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch.func import grad, jvp, vmap

from ..data.examples import targets_of
from ..data.per_example import Loss
from ..types import Tensor
from .comparisons import FEW, code_of, gap_to_plain, head, plain_gradient, plain_gradients, within_rounding
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


def directional_terms(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, rows: Float[Tensor, "k p"], terms: Loss
) -> Float[Tensor, "k b t"]:
    """The numbers s . grad of each term of each example's loss, in forward mode: one pass for all terms.

    Args:
        of: the model with its loss.
        theta: where the gradients are taken (p,).
        batch: b examples.
        rows: k directions s, (k, p).
        terms: from outputs and targets to t numbers per example (b, t), those of its tokens, say.

    Returns:
        One number per direction, example and term, (k, b, t).
    """

    def at(theta: Tensor) -> Tensor:
        return terms(of.joint_outputs(theta, batch), targets_of(of.own(batch)))

    def plain() -> Tensor:
        """A backward pass for each term."""
        shape = at(theta).shape
        each = (partial(_entry, at, i) for i in range(shape.numel()))
        grads = [plain_gradient(one, theta) for one in each]
        return (rows @ torch.stack(grads).T).view(-1, *shape)

    def gap(found: Tensor) -> float:
        """How far a random combination of all terms is off, by one backward pass."""
        mixed = torch.randn(found.shape[1:], generator=torch.Generator().manual_seed(0)).to(found)
        back = plain_gradient(lambda t: (at(t) * mixed).sum(), theta)
        return within_rounding((found * mixed).flatten(1).sum(1), rows @ back, of.coarsest)

    return of.shortcuts.go(
        ("gradients of terms in forward mode", code_of(terms)),
        "products with the gradients of terms are taken from a backward pass each",
        lambda: torch.stack([jvp(at, (theta,), (row,))[1] for row in rows]),
        plain,
        gap,
    )


def _entry(of: Callable[[Tensor], Tensor], place: int, theta: Tensor) -> Tensor:
    """One number of a function's values, counted through all of them."""
    return of(theta).flatten()[place]
