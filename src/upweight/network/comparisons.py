"""How far derivatives are off: from plain backward passes, and from differences of what is differentiated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import torch
from jaxtyping import Float
from torch.utils._pytree import tree_map

from ..data.examples import count, examples
from ..data.per_example import Loss
from ..runtime.fallback import out_of_memory
from ..types import Tensor
from .evaluation import LOSS, Evaluation, doubled
from .shortcuts import wrong

FEW = 8
"""Examples that a short way is compared on."""
MOST_NUMBERS = 10**8
"""Parameters and buffers of a model that is also evaluated in float64."""
STEPS = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
"""Steps of differences in float64, over the size of what is moved: small ones for kinks, large ones for rounding."""
ROUGH_STEPS = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""The same in a lower precision."""
ROUNDINGS = 4
"""How many units of rounding a computed number is off, about."""

Differentiated: TypeAlias = Callable[[Evaluation, Tensor, Any], Tensor]
"""Something of a model at theta on a batch."""


def code_of(function: Any) -> Any:
    """What a function does, whatever it holds: its code, or its class."""
    return getattr(function, "__code__", None) or type(function)


def plain_gradient(function: Callable[[Tensor], Tensor], theta: Float[Tensor, "*x"]) -> Float[Tensor, "*x"]:
    """The gradient of a number by one backward pass; zeros where it does not depend on theta."""
    at = theta.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = function(at)
    return (
        torch.autograd.grad(value, at, materialize_grads=True)[0]
        if value.requires_grad
        else torch.zeros_like(at)
    )


def plain_gradients(
    of: Evaluation, theta: Float[Tensor, " p"], batch: Any, function: Loss | None = None
) -> Float[Tensor, "b p"]:
    """The gradient of every example's loss by a backward pass each: what every short way is held against.

    Args:
        of: the model with its loss.
        theta: where the gradients are taken (p,).
        batch: b examples.
        function: what is asked about in place of the loss.
    """
    found = [plain_gradient(lambda t, z=z: of.one(t, z, function), theta) for z in examples(batch)]  # type: ignore[misc]
    return torch.stack(found)


def differentiated(of: Evaluation, theta: Tensor, batch: Any) -> Evaluation:
    """The evaluation where backward passes through all examples at once are those through single ones, else the loop.

    Args:
        of: the model with its loss, by the strategy whose values are right.
        theta: its parameters (p,).
        batch: a few examples to compare on.
    """
    v = torch.randn(count(batch), generator=torch.Generator().manual_seed(0)).tolist()

    def plain(of: Evaluation, theta: Tensor, batch: Any) -> Tensor:
        total = torch.zeros_like(theta)
        for z, sign in zip(examples(batch), v, strict=True):
            total += sign * plain_gradient(lambda t, z=z: of.one(t, z), theta)  # type: ignore[misc]
        return total

    def gap() -> float:
        together = plain_gradient(lambda t: of.losses(t, batch) @ t.new_tensor(v), theta)
        return gap_to_plain(together, plain, of, theta, batch)

    off = gap()
    if not off:
        return of
    of.shortcuts.held[LOSS] = False
    rest = gap()
    what = "model and loss are" if rest else "the loss is"
    of.shortcuts.say(f"{what} differentiated example by example: for several at once {wrong(off)}")
    return replace(of, strategy="loop") if rest else of


def head(batch: Any, most: int = FEW) -> Any:
    """The first examples of a batch."""
    return tree_map(lambda leaf: leaf[:most] if isinstance(leaf, Tensor) else leaf, batch)


def in_float64(of: Evaluation, theta: Tensor, batch: Any) -> tuple[Evaluation, Tensor, Any]:
    """The model, theta and the batch in float64 where the model computes in it, else as they are.

    Args:
        of: the model with its loss.
        theta: its parameters (p,).
        batch: some examples.
    """
    if theta.numel() + sum(value.numel() for value in of.fixed.values()) > MOST_NUMBERS:
        return of, theta, batch
    wide = replace(of, fixed=doubled(of.fixed), autocast=None), theta.double(), doubled(batch)
    try:
        with torch.no_grad():
            wide[0].losses(wide[1], head(wide[2], 1))
    except Exception as error:  # numbers that the model or the loss holds itself, in its own precision
        if out_of_memory(error):
            raise
        return of, theta, batch
    return wide


def relative(mine: Tensor, plain: Tensor) -> float:
    """The norm of the difference over that of the larger side; 0 where both are 0, infinite where one is not finite."""
    size = max(float(mine.norm()), float(plain.norm()))
    gap = float((mine.double() - plain.double()).norm())
    if size == 0:
        return 0.0
    return gap / size if gap == gap else float("inf")


def rounding(dtype: torch.dtype, coarsest: float = 0.0) -> float:
    """The relative gap between two ways to a derivative that counts as rounding.

    A thousandth in float64 too, where models may compute norms or Fourier transforms in single precision.

    Args:
        dtype: the precision in which they are given.
        coarsest: the error of the coarsest precision in which model or loss compute inside; in bfloat16 a quarter
            counts as rounding.
    """
    return max(1e-3, 10 * float(torch.finfo(dtype).eps) ** 0.5, 3 * coarsest**0.5)


def within_rounding(mine: Tensor, plain: Tensor, coarsest: float = 0.0) -> float:
    """How far a derivative is off the same by another way, relatively; 0 within rounding.

    Args:
        mine: the derivative by one way.
        plain: by the other.
        coarsest: the error of the coarsest precision in which model or loss compute.
    """
    off = relative(mine, plain)
    return 0.0 if off <= rounding(plain.dtype, coarsest) else off


def gap_to_plain(mine: Tensor, plain: Differentiated, of: Evaluation, theta: Tensor, batch: Any) -> float:
    """How far a derivative is off plain backward passes, relatively; 0 within rounding.

    Where rounding is most of a derivative (the model is sure of all examples) it shows as the difference that float64
    makes to the plain passes. Where two plain passes differ (dropout), nothing is compared.

    Args:
        mine: the derivative by a short way.
        plain: the same by plain backward passes.
        of: the model with its loss.
        theta: its parameters (p,).
        batch: some examples.
    """
    right = plain(of, theta, batch)
    if not bool(right.isfinite().all()):
        return 0.0
    off = within_rounding(mine, right, of.coarsest)
    if not off or within_rounding(plain(of, theta, batch), right, of.coarsest):
        return 0.0  # a model that is noisy is refused for that
    wide = in_float64(of, theta, batch)
    if wide[1].dtype == theta.dtype:
        return off
    moved = relative(right, plain(*wide))
    return 0.0 if off <= 10 * moved else off


class Quotient(NamedTuple):
    """A central difference over its step, and the norm that rounding of what was subtracted may have in it."""

    value: Tensor
    rounding: float


def gap_to_differences(
    claimed: Tensor, differences: Callable[[float], Quotient], near: float = 1e-3, coarsest: float = 0.0
) -> float:
    """How far a derivative is off quotients of differences, relatively.

    0 where it agrees with one of them, or where they do not settle: kinks need small steps, rounding large ones, and
    only quotients that agree with each other much better than with the derivative speak against it.

    Args:
        claimed: the derivative along a direction, in the precision that the differences are in.
        differences: a step, over the size of what is moved -> the central difference over it.
        near: the relative gap that counts as agreement.
        coarsest: the error of the coarsest precision in which model or loss compute.
    """
    double = claimed.dtype == torch.float64 and coarsest <= torch.finfo(torch.float32).eps
    near = near if double else max(near, 3e-2, rounding(claimed.dtype, coarsest))
    coarser = 1.0 if double else max(1.0, coarsest / torch.finfo(claimed.dtype).eps)
    before, settled, off = None, float("inf"), 0.0
    for step in STEPS if double else ROUGH_STEPS:
        found, noise = differences(step)
        gap = relative(claimed, found)
        if gap <= near or float((claimed - found).norm()) <= coarser * noise:
            return 0.0
        if before is not None:
            apart = relative(found, before)
            if apart < settled:
                settled, off = apart, gap
        before = found
    return off if settled < off / 10 else 0.0


def gap_to_loss(of: Evaluation, theta: Tensor, batch: Any) -> float:
    """How far the gradient of a random sum of losses is off differences of the losses, relatively to its size.

    It is where the model's own derivatives are not those of its loss: `.detach()` in forward, a straight-through
    estimator, `scale_grad_by_freq`. Where the gradient is exactly 0 training does not move, so nothing is compared.

    Args:
        of: the model with its loss.
        theta: its parameters (p,).
        batch: a few examples.
    """
    of, theta, batch = in_float64(replace(of, strategy="loop"), theta, batch)
    signs = theta.new_tensor(torch.randn(count(batch), generator=torch.Generator().manual_seed(0)).tolist())

    def value(t: Tensor) -> Tensor:
        return torch.stack([of.one(t, z) for z in examples(batch)]) @ signs

    gradient = plain_gradient(value, theta)
    v = direction(gradient)
    # A number that is small by chance has no relative error: both get the size of the gradient beside them.
    size = gradient.norm()

    slope = central(value, theta, v)

    def seen(step: float) -> Quotient:
        found = slope(step)
        return found._replace(value=torch.stack([found.value, size]))

    with torch.no_grad():
        return gap_to_differences(torch.stack([gradient @ v, size]), seen, 1e-2, of.coarsest)


def direction(like: Tensor, seed: int = 0) -> Tensor:
    """Random numbers of that shape, 0 where `like` is exactly 0: where training does not move (padding, say)."""
    noise = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)
    return noise * (like != 0)


def central(function: Callable[[Tensor], Tensor], at: Tensor, along: Tensor) -> Callable[[float], Quotient]:
    """Central differences of a function: a step, over the size of `at` -> the quotient.

    Args:
        function: what is differentiated.
        at: where.
        along: the direction.
    """
    size = max(float(at.square().mean().sqrt()), torch.finfo(at.dtype).eps ** 0.5)

    def quotient(step: float) -> Quotient:
        h = step * size
        up, down = function(at + h * along), function(at - h * along)
        rounding = ROUNDINGS * torch.finfo(up.dtype).eps * max(float(up.norm()), float(down.norm())) / h
        return Quotient((up - down) / (2 * h), rounding)

    return quotient
