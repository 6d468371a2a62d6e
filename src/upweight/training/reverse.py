"""Backwards through one step: what test measures' derivatives after it are before it, and in its examples' weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..errors import InfluenceError
from ..runtime.fallback import attempt, out_of_memory
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


class Pulled(NamedTuple):
    """Derivatives of m test measures in what one step is made of.

    Args:
        before: what it begins with.
        weights: the weights (m, b) of its examples.
        gradient: the gradient of its loss, by parameter, where it was asked for.
        buffers: the running statistics of batch norm that it leaves, by name.
    """

    before: Cotangents
    weights: Float[Tensor, "m b"]
    gradient: Params | None
    buffers: Params


def pulled_back(forward: Forward, state: State, step: Step, after: Cotangents, keep: bool = False) -> Pulled:
    """Through one step, for all test measures at once.

    Args:
        forward: the steps of the run.
        state: what the step began with.
        step: the step.
        after: the derivatives in what it left, which are written into.
        keep: whether the derivatives in the gradient are wanted as well.
    """
    if state.streams is not None:
        state.streams.set()
    leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
    begun = {name: buffers[name].requires_grad_() for name in after.buffers}
    buffers |= {name: value.clone() for name, value in begun.items()}
    w = state.theta.new_ones(step.count).requires_grad_()
    weights = forward.start.dense
    versions = {name: value._version for name, value in buffers.items() if value.is_floating_point()}
    grads, products, later = forward.start.objective.tapped(leaves, buffers, w, step, weights)
    check_written({name: buffers[name]._version - version for name, version in versions.items()})
    before, pulled, (kept, factor) = _through_rule(forward, state, step, grads, after)
    layout = forward.start.base.layout
    directions, into = layout.unpack(pulled), layout.unpack(before.theta)
    gradient = layout.unpack(pulled * factor) if keep else None
    others = {name: part for name, part in grads.items() if name not in weights and part is not None}
    outputs = [part for part in others.values() if part.requires_grad] + [later[name] for name in begun]
    cotangents = [directions[name] for name, part in others.items() if part.requires_grad]
    cotangents += after.buffers.values()
    at = [*(leaves[name] for name in leaves if name not in weights), *begun.values(), w]
    for name, tap, delta in products:
        of_delta, of_input = tap.along(directions[name], delta)
        outputs.append(delta)
        cotangents.append(of_delta)
        at.append(tap.e)
        if of_input is not None and tap.f is not None:
            outputs.append(tap.a)
            cotangents.append(of_input)
            at.append(tap.f)
    through = iter(batched(outputs, at, cotangents))
    if kept != 1:
        before.theta.mul_(kept)
    found = {name: next(through) for name in leaves if name not in weights}
    held = {name: next(through) for name in begun}
    of_weights = next(through).mul_(factor)
    for name, tap, delta in products:
        zeta, eta = next(through), None if tap.f is None else next(through)
        tap.add(into[name], delta, zeta, eta, factor)
    for name, part in found.items():
        into[name].add_(part, alpha=factor)
    return Pulled(before._replace(buffers=held), of_weights, gradient, after.buffers)


def check_written(times: dict[str, int]) -> None:
    """Refuse buffers of real numbers that a model writes into by itself: no derivative leads through them.

    Raises InfluenceError; `times` says how often a step wrote into each.
    """
    for name, count in times.items():
        if count:
            raise InfluenceError(
                f"the model writes into its buffer {name!r} while it trains, and not as batch norm does, so that no "
                "derivative leads through it (spectral norm, an average of its own?): leave that part in eval mode "
                "while you train, or take effects from replays, TrainingRun.replays"
            )


def _through_rule(
    forward: Forward, state: State, step: Step, grads: Mapping[str, Tensor | None], after: Cotangents
) -> tuple[Cotangents, Float[Tensor, "m p"], tuple[float, float]]:
    """Through the optimiser's update alone.

    Args:
        forward: the steps of the run.
        state: what the step began with.
        step: the step.
        grads: the gradient in each parameter.
        after: the derivatives in what the step left.

    Returns:
        The derivatives in what the step began with, as far as they do not go through its gradient, those in the
        gradient, and numbers that both are still to be multiplied by.
    """
    straight = forward.straight(step, grads)
    if straight is not None and not after.buffers:  # whose derivatives have no such factor
        return after, after.theta, straight
    at = [one.detach().requires_grad_() for one in (state.theta, *state.memory, forward.packed(grads))]
    theta, memory = forward.moved(state, (at[0], tuple(at[1:-1]), at[-1]), step, grads)
    own, *direct = batched([theta, *memory], at, [after.theta, *after.memory])
    if any(own.data_ptr() == other.data_ptr() for other in direct):
        own = own.clone()  # it is written into; autograd hands out one tensor for the terms of a plain sum
    return Cotangents(own, tuple(direct[:-1]), after.buffers), direct[-1], (1.0, 1.0)


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
    size = min(AT_ONCE, len(cotangents[0]))
    while True:
        try:
            parts = [
                _some(outputs, inputs, list(some))
                for some in zip(*(c.split(size) for c in cotangents), strict=True)
            ]
            return [torch.cat(one) if len(one) > 1 else one[0] for one in zip(*parts, strict=True)]
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or size == 1:
                raise
            size //= 2  # fewer test measures at once


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
