"""Backwards through one step: what test measures' derivatives after it are before it, and in its examples' weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float

from ..errors import InfluenceError
from ..runtime.fallback import attempt
from ..types import Params, Tensor
from .forward import Forward
from .rules import Memory
from .start import Start, State
from .steps import Step

AT_ONCE = 64
"""Cotangents that go through double backward at once."""


class Cotangents(NamedTuple):
    """Derivatives of m test measures in what a step hands to the next."""

    theta: Float[Tensor, "m p"]
    memory: Memory
    buffers: Params
    """In the running statistics of batch norm, by name, (m, ...) each."""

    @classmethod
    def of(cls, v: Float[Tensor, "m q"], start: Start) -> Cotangents:
        """Derivatives in what the last step left: parameters, then running statistics; these may be left out."""
        p, moving = start.base.p, start.objective.moving
        rest = v[:, p:] if v.shape[1] > p else v.new_zeros(len(v), moving.size)
        memory = tuple(v.new_zeros(len(v), p) for _ in start.groups.rule.slots)
        return cls(v[:, :p].clone(), memory, moving.unpack(rest.clone()) if moving.names else {})


def pulled_back(
    forward: Forward, state: State, step: Step, after: Cotangents
) -> tuple[Cotangents, Float[Tensor, "m b"]]:
    """Through one step, for all test measures at once.

    Args:
        forward: the steps of the run.
        state: what the step began with.
        step: the step.
        after: the derivatives in what it left.

    Returns:
        The derivatives in what it began with, and in the weights of its examples.
    """
    if state.streams is not None:
        state.streams.set()
    leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
    begun = {name: buffers[name].requires_grad_() for name in after.buffers}
    buffers |= {name: value.clone() for name, value in begun.items()}
    w = state.theta.new_ones(step.count).requires_grad_()
    grads, later = _looked_at(forward, leaves, buffers, w, step)
    at = [one.detach().requires_grad_() for one in (state.theta, *state.memory, forward.packed(grads))]
    theta, memory = forward.moved(state, (at[0], tuple(at[1:-1]), at[-1]), step, grads)
    direct = _batched([theta, *memory], at, [after.theta, *after.memory])
    there = {name: part for name, part in grads.items() if part is not None and part.requires_grad}
    pulled = forward.start.base.layout.unpack(direct[-1])
    outputs = [*there.values(), *(later[name] for name in begun)]
    cotangents = [*(pulled[name] for name in there), *after.buffers.values()]
    through = _batched(outputs, [*leaves.values(), *begun.values(), w], cotangents)
    before = forward.start.base.layout.unpack(direct[0])
    for name, part in zip(leaves, through, strict=False):
        before[name].add_(part)
    held = dict(zip(begun, through[len(leaves) : -1], strict=True))
    return Cotangents(direct[0], tuple(direct[1:-1]), held), through[-1]


def _looked_at(
    forward: Forward, leaves: Params, buffers: Params, w: Tensor, step: Step
) -> tuple[dict[str, Tensor | None], Params]:
    """The gradient of a step, to be differentiated, and the buffers after it.

    Raises InfluenceError for buffers of real numbers that the model writes into by itself: no derivative leads there.
    """
    versions = {name: value._version for name, value in buffers.items() if value.is_floating_point()}
    found = forward.start.objective.gradient(leaves, buffers, w, step, graph=True)
    for name, version in versions.items():
        if buffers[name]._version != version:
            raise InfluenceError(
                f"the model writes into its buffer {name!r} while it trains, and not as batch norm does, so that no "
                "derivative leads through it (spectral norm, an average of its own?): leave that part in eval mode "
                "while you train, or take effects from replays, TrainingRun.replays"
            )
    return found


def _batched(outputs: list[Tensor], inputs: list[Tensor], cotangents: list[Tensor]) -> list[Tensor]:
    """The derivatives of m combinations of outputs, by one pass, or by one for each where torch cannot vectorise it."""
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
