"""Forwards through one step: how parameters and memory move as weights of training examples do."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..types import Tensor
from .forward import Forward
from .reverse import Cotangents, batched
from .start import State
from .steps import Step


def pushed(
    forward: Forward, state: State, step: Step, before: Cotangents, dw: Float[Tensor, "k b"]
) -> Cotangents:
    """Through one step, for k directions at once: derivatives of what it leaves.

    The gradient's derivative along a direction is the gradient of (gradient . direction), since second derivatives are
    symmetric; the optimiser's is got by differentiating its transpose, which is linear, once more.

    Args:
        forward: the steps of the run.
        state: what the step begins with.
        step: the step.
        before: the derivatives (k, p) of what it begins with.
        dw: those of the weights of its examples.
    """
    state.begin()
    leaves, buffers = forward.leaves(state.theta), forward.buffers(state)
    w = state.theta.new_ones(step.count).requires_grad_()
    grads, _, _ = forward.start.objective.tapped(leaves, buffers, w, step, ())
    there = {name: part for name, part in grads.items() if part is not None and part.requires_grad}
    u = [torch.zeros_like(part).requires_grad_() for part in there.values()]
    layout = forward.start.base.layout
    ins = [*leaves.values(), w]
    back = torch.autograd.grad(
        list(there.values()), ins, u, create_graph=True, allow_unused=True, materialize_grads=True
    )
    along = [*layout.unpack(before.theta).values(), dw]
    known = [(one, part) for one, part in zip(back, along, strict=True) if one.requires_grad]
    found = batched([one for one, _ in known], u, [part for _, part in known])
    dg = dict(zip(there, found, strict=True))
    k = len(dw)
    g = torch.cat(
        [
            (dg[name] if name in dg else state.theta.new_zeros(k, size)).reshape(k, -1)
            for name, size in zip(layout.names, layout.sizes, strict=True)
        ],
        dim=1,
    )
    at = [one.detach().requires_grad_() for one in (state.theta, *state.memory, forward.packed(grads))]
    theta, memory = forward.moved(state, (at[0], tuple(at[1:-1]), at[-1]), step, grads)
    outs = [theta, *memory]
    u = [torch.zeros_like(one).requires_grad_() for one in outs]
    back = torch.autograd.grad(outs, at, u, create_graph=True, materialize_grads=True)
    known = [
        (one, part)
        for one, part in zip(back, [before.theta, *before.memory, g], strict=True)
        if one.requires_grad
    ]
    moved = batched([one for one, _ in known], u, [part for _, part in known])
    return Cotangents(moved[0], tuple(moved[1:]), {})
