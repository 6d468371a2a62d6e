"""Which engine gives right products with the curvature of a model: each is compared before it is believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import DerivativeError
from ..runtime.fallback import out_of_memory
from ..types import Tensor
from .comparisons import (
    central,
    direction,
    gap_to_differences,
    in_float64,
    plain_gradient,
    relative,
    rounding,
    within_rounding,
)
from .curvature_products import STEP, Mode, gauss_newton_parts, hessian_product
from .evaluation import Evaluation
from .shortcuts import wrong

MODES: tuple[Mode, ...] = ("double", "forward")
"""Engines that know no loop, the one that is fastest in a solve first."""
INPUTS = "the derivative in the inputs"
SLOWLY = {
    "Hessian": "by differences of gradients in float64",
    "GaussNewton": "by a backward pass per output",
    INPUTS: "by differences of gradients in float64",
}
"""Where no engine of second derivatives is right, how a matrix's products come."""
COMPARED = 32
"""Examples that engines are compared on."""
Gap = Callable[[Evaluation, Tensor, Any, Mode], float]
"""How far an engine is off on a batch, relatively: 0 within rounding."""


def right_engine(
    of: Evaluation, theta: Tensor, batch: Callable[[], Any], wanted: Mode, matrix: str, gap: Gap
) -> Mode | None:
    """The engine that was asked for where torch has it and it is right, else the other one; None where neither is.

    Args:
        of: the model with its loss.
        theta: its parameters (p,).
        batch: fetches some examples, where one was not compared yet.
        wanted: the engine that is asked for.
        matrix: "Hessian" or "GaussNewton", whose products they give.
        gap: how far one is off.
    """
    held = of.shortcuts.held

    def right(mode: Mode) -> bool:
        kind = (matrix, mode)
        if kind not in held:
            try:
                off = gap(of, theta, batch(), mode)
                reason = wrong(off)
            except (RuntimeError, NotImplementedError) as error:
                if out_of_memory(error):
                    raise
                off, reason = float("inf"), str(error).splitlines()[0].strip(" .")
            held[kind] = off == 0
            if 0 < off < float("inf"):
                of.shortcuts.misled.add(matrix)
            if off:
                of.shortcuts.failures.setdefault(matrix, reason)
        return held[kind]

    found = next((mode for mode in (wanted, *MODES) if right(mode)), None)
    if found is None and right("loop"):
        found = "loop"
        of.shortcuts.say(
            f"products with {matrix} are slow, {SLOWLY[matrix]}: torch has no right second derivative of the model "
            f"({_reason(of, matrix)})"
        )
    elif found != wanted and found is not None:
        words = f"products with {matrix} are taken in another way, which may be slower: {_reason(of, matrix)}"
        of.shortcuts.say(words, loud=matrix in of.shortcuts.misled)
    return found


def hessian_gap(of: Evaluation, theta: Tensor, batch: Any, mode: Mode) -> float:
    """How far the product with the Hessian is off differences of gradients, along a random direction.

    Args:
        of: the model with its loss.
        theta: where the derivatives are taken (p,).
        batch: b examples.
        mode: which engine.
    """
    of, theta, batch = in_float64(of, theta, batch)
    ones = torch.ones(len(of.losses(theta, batch)), dtype=theta.dtype, device=theta.device)

    def gradient(t: Tensor) -> Tensor:
        return plain_gradient(lambda t: of.losses(t, batch) @ ones, t)

    v = direction(gradient(theta))
    claimed = hessian_product(of, theta, batch, ones, mode)(v[None])[0]
    if mode == "loop":  # differences are their own judge: with another step they must be the same
        return gap_to_differences(
            claimed, lambda _: central(gradient, theta, v)(10 * STEP), coarsest=of.coarsest
        )
    return (
        0.0
        if of.shortcuts.pseudo
        else gap_to_differences(claimed, central(gradient, theta, v), coarsest=of.coarsest)
    )


def gauss_newton_gap(of: Evaluation, theta: Tensor, batch: Any, mode: Mode) -> float:
    """How far the Jacobian of the outputs is off plain backward passes: u . J v against J^T u . v, at random.

    Args:
        of: the model with its loss.
        theta: where the derivatives are taken (p,).
        batch: b examples.
        mode: which engine.
    """
    if mode == "loop":
        return 0.0
    ones = torch.ones(len(of.losses(theta, batch)), dtype=theta.dtype, device=theta.device)
    parts = gauss_newton_parts(of, theta, batch, ones, mode)
    v = direction(theta)
    tangent = parts.tangent(v[None])[0]
    u = direction(tangent, 1) + (tangent == 0).to(tangent)
    back = plain_gradient(lambda t: parts.outputs(t) @ u, theta)
    across = torch.stack([tangent @ u, back @ v])
    if float((across[0] - across[1]).abs()) <= rounding(theta.dtype, of.coarsest) * float(tangent.norm()):
        return within_rounding(parts.back(u[None])[0], back, of.coarsest)
    return relative(across[:1], across[1:])


def no_second_derivative(of: Evaluation, matrix: str) -> DerivativeError:
    """The refusal of a matrix whose products no engine gives."""
    return DerivativeError(
        f"torch has no right second derivative of the model ({_reason(of, matrix)}), so there is no {matrix} of it: "
        "use GaussNewton(problem) or EKFAC(problem), which need first derivatives of the model only"
    )


def _reason(of: Evaluation, matrix: str) -> str:
    """Why there is no product, in torch's words, with the layer that they are about."""
    words = of.shortcuts.failures.get(matrix, "")
    letters = "".join(c for c in words.lower() if c.isalpha())
    for name, module in of.model.named_modules():
        kind = type(module).__name__
        if name and len(kind) > 3 and kind.lower() in letters:
            return f"layer {name!r} ({kind}): {words}"
    return words
