"""One step forward: what it leaves of parameters and of the optimiser's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Params, Tensor
from .rules import Memory, Setting, square_root
from .start import Start, State
from .steps import Step, Streams

ADDED = 1e-6
"""What `clip_grad_norm_` adds to the norm: a norm of exactly the limit is shrunk too."""


@dataclass(frozen=True, eq=False)
class Forward:
    """Steps of a run, one at a time.

    Args:
        start: the model, the loss of a step and the optimiser.
        clip: the norm to which gradients are clipped, or None.
    """

    start: Start
    clip: float | None

    def advanced(self, state: State, step: Step, w: Float[Tensor, " b"] | None = None) -> State:
        """What a step leaves; torch's random numbers move on.

        Args:
            state: what it begins with.
            step: the step.
            w: other weights of its examples than those that it was trained with, as multiples of these.
        """
        return self.looked_at(state, step, w)[0]

    def looked_at(
        self, state: State, step: Step, w: Float[Tensor, " b"] | None = None
    ) -> tuple[State, dict[str, Tensor | None]]:
        """What `advanced` gives, and the gradient in each parameter, None where there is none.

        Args:
            state: what the step begins with.
            step: the step.
            w: as there.
        """
        if state.streams is not None:
            state.streams.set()
        leaves, buffers = self.leaves(state.theta), self.buffers(state)
        w = state.theta.new_ones(step.count) if w is None else w
        grads, buffers = self.start.objective.gradient(leaves, buffers, w, step)
        return self.arrived(state, step, grads, buffers), grads

    def arrived(self, state: State, step: Step, grads: Mapping[str, Tensor | None], buffers: Params) -> State:
        """What a step leaves, from its gradient.

        Args:
            state: what the step began with.
            step: the step.
            grads: the gradient in each parameter, None where there is none.
            buffers: the model's buffers after it.
        """
        with torch.no_grad():
            theta, memory = self.moved(state, (state.theta, state.memory, self.packed(grads)), step, grads)
        counted = tuple(
            c + (grads[name] is not None) for c, name in zip(state.counted, self.names, strict=True)
        )
        buffers = {name: value.detach() for name, value in buffers.items()}
        return State(theta, memory, counted, buffers, None if state.streams is None else Streams.now())

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters, in their order."""
        return self.start.base.layout.names

    def leaves(self, theta: Float[Tensor, " p"]) -> Params:
        """The parameters by name, to be differentiated in."""
        parts = self.start.base.layout.unpack(theta.detach())
        return {name: part.detach().requires_grad_() for name, part in parts.items()}

    def buffers(self, state: State) -> Params:
        """Copies of the buffers, which the model may write into."""
        return {name: value.clone() for name, value in state.buffers.items()}

    def packed(self, grads: Mapping[str, Tensor | None]) -> Float[Tensor, " p"]:
        """A gradient as one vector, 0 where there is none."""
        layout, like = self.start.base.layout, self.start.state.theta
        return torch.cat(
            [
                like.new_zeros(size) if (part := grads[name]) is None else part.flatten()
                for name, size in zip(layout.names, layout.sizes, strict=True)
            ]
        )

    def moved(
        self, state: State, at: tuple[Tensor, Memory, Tensor], step: Step, grads: Mapping[str, Tensor | None]
    ) -> tuple[Float[Tensor, "*r p"], Memory]:
        """Parameters and memory after the optimiser's step: clipped, and left alone where there is no gradient.

        Args:
            state: what the step begins with; of several runs that of any.
            at: parameters, memory and gradient, which may be those of several runs.
            step: the step.
            grads: tells in which parameters there is a gradient.
        """
        theta, memory, g = at
        groups = self.start.groups
        settings = groups.expanded(step.settings, state.theta)
        if self.clip is not None:
            g = g * self.shrinking(g)
        later, kept = groups.rule.moved(theta, memory, g, self.per_entry(state.counted), settings)
        if all(part is not None for part in grads.values()):
            return later, kept
        there = self.per_entry(tuple(int(grads[name] is not None) for name in self.names)) != 0
        there = torch.as_tensor(there, device=state.theta.device)
        return torch.where(there, later, theta), tuple(
            torch.where(there, new, old) for new, old in zip(kept, memory, strict=True)
        )

    def straight(self, step: Step, grads: Mapping[str, Tensor | None]) -> tuple[float, float] | None:
        """Numbers a, b where theta becomes a theta + b gradient and nothing is remembered; else None."""
        if self.clip is not None or any(part is None for part in grads.values()):
            return None
        settings = self.start.groups.expanded(step.settings, self.start.state.theta)
        return self.start.groups.rule.straight(settings)

    def shrinking(self, g: Float[Tensor, "*r p"]) -> Float[Tensor, "*r 1"]:
        """What clipping multiplies a gradient by, as `clip_grad_norm_` does it; 1 where nothing is clipped."""
        norm = square_root(g.square().sum(-1, keepdim=True))
        return norm.new_ones(norm.shape) if self.clip is None else (self.clip / (norm + ADDED)).clamp(max=1.0)

    def per_entry(self, values: tuple[int, ...]) -> Setting:
        """One number per parameter as one per entry of theta, or one for all where they are equal."""
        if all(value == values[0] for value in values):
            return float(values[0])
        sizes = torch.tensor(self.start.base.layout.sizes)
        return torch.tensor(values).repeat_interleave(sizes).to(self.start.state.theta)
