"""Backwards through one step: what test measures' derivatives after it are before it, and in its examples' weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float

from ..runtime.fallback import attempt
from ..types import Params, Tensor
from .forward import Forward
from .rules import Memory
from .start import State
from .steps import Step

AT_ONCE = 64
"""Cotangents that go through double backward at once."""


class Cotangents(NamedTuple):
    """Derivatives of m test measures in what a step hands to the next."""

    theta: Float[Tensor, "m p"]
    memory: Memory


class Pulled(NamedTuple):
    """Derivatives of m test measures in what one step is made of.

    Args:
        before: what it begins with.
        weights: the weights (m, b) of its examples.
        gradient: the gradient of its loss, by parameter.
    """

    before: Cotangents
    weights: Float[Tensor, "m b"]
    gradient: Params


def pulled_back(forward: Forward, state: State, step: Step, after: Cotangents) -> Pulled:
    """Through one step, for all test measures at once.

    Args:
        forward: the steps of the run.
        state: what the step began with.
        step: the step.
        after: the derivatives in what it left.
    """
    if state.streams is not None:
        state.streams.set()
    leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
    w = state.theta.new_ones(step.count).requires_grad_()
    grads = forward.start.objective.gradient(leaves, buffers, w, step, graph=True)
    at = [one.detach().requires_grad_() for one in (state.theta, *state.memory, forward.packed(grads))]
    theta, memory = forward.moved(state, (at[0], tuple(at[1:-1]), at[-1]), step, grads)
    direct = batched([theta, *memory], at, [after.theta, *after.memory])
    there = {name: part for name, part in grads.items() if part is not None and part.requires_grad}
    pulled = forward.start.base.layout.unpack(direct[-1])
    through = batched(list(there.values()), [*leaves.values(), w], [pulled[name] for name in there])
    before = forward.start.base.layout.unpack(direct[0])
    for name, part in zip(leaves, through, strict=False):
        before[name].add_(part)
    return Pulled(Cotangents(direct[0], tuple(direct[1:-1])), through[-1], pulled)


def batched(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    """The derivatives of m combinations of outputs, by one pass, or by one for each where torch cannot vectorise it.

    Args:
        outputs: what is combined.
        inputs: what is differentiated in.
        cotangents: the combinations, (m, *shape) for each output.
    """
    if not outputs:
        m = len(cotangents[0])
        return [one.new_zeros(m, *one.shape) for one in inputs]
    parts = [
        _some(outputs, inputs, list(some))
        for some in zip(*(c.split(AT_ONCE) for c in cotangents), strict=True)
    ]
    return [torch.cat(one) if len(one) > 1 else one[0] for one in zip(*parts, strict=True)]


def _some(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    def fast() -> list[Tensor]:
        found = torch.autograd.grad(
            outputs, inputs, cotangents, is_grads_batched=True, retain_graph=True, materialize_grads=True
        )
        return list(found)

    def slow() -> list[Tensor]:
        each = [
            torch.autograd.grad(outputs, inputs, list(one), retain_graph=True, materialize_grads=True)
            for one in zip(*cotangents, strict=True)
        ]
        return [torch.stack(one) for one in zip(*each, strict=True)]

    return attempt(fast, slow)
