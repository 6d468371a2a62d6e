"""The run again without some of its examples, many times at once: what its derivatives are held against."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..capabilities import Replays
from ..network.problem import Problem
from ..objective import Objective
from ..runtime.alone import differentiating
from ..runtime.fallback import attempt
from ..runtime.progress import track
from ..types import Tensor
from .forward import Forward
from .start import Start, State
from .steps import Step, own_streams

TOGETHER_BYTES = 1 << 29
"""Parameters, memory and gradients of runs that are replayed at once."""
MOST_TOGETHER = 128
SAME = 1e-4
"""How far a replay among others may be from the run itself after its first step, as a share of that step."""


@dataclass(frozen=True, eq=False)
class ReplaysOfRun(Replays):
    """A recorded run, replayed with other weights of its examples: the same start, batches and random numbers.

    Args:
        start: the model before the first step.
        steps: of the run.
        forward: takes single steps.
        end: what the last step left.
        problem: the trained model.
    """

    start: Start
    steps: tuple[Step, ...]
    forward: Forward
    end: State
    problem: Problem

    def without(self, sets: list[Tensor]) -> Iterator[Objective]:
        state = self.start.state
        vectors = 4 + 2 * len(state.memory)
        room = TOGETHER_BYTES // (vectors * self.start.base.p * state.theta.element_size())
        size = max(1, min(MOST_TOGETHER, room))
        weights = state.theta.new_ones(len(sets), self.start.base.n)
        for w, rows in zip(weights, sets, strict=True):
            w[rows] = 0
        for some in weights.split(size):
            yield from self.weighted(some)

    def weighted(self, weights: Float[Tensor, "r n"]) -> Iterator[Objective]:
        """The model at the end of each of r replays, whose examples have those weights.

        Args:
            weights: multiples (r, n) of the weights in training.
        """
        with differentiating(), own_streams():
            thetas = attempt(lambda: self._together(weights), lambda: None)
            if thetas is not None:
                yield from map(self.problem.at, thetas)
                return
            for w in weights:
                yield self.alone(w)

    def _together(self, weights: Float[Tensor, "r n"]) -> Float[Tensor, "r p"] | None:
        """The parameters at the end; None where the model has buffers that move, or draws otherwise among others."""
        state = self.start.state
        if not _same_buffers(state, self.end):
            return None
        forward, layout = self.forward, self.start.base.layout
        weights = torch.cat([weights.new_ones(1, self.start.base.n), weights])
        theta = state.theta.expand(len(weights), -1)
        memory = tuple(one.expand(len(weights), -1) for one in state.memory)
        steps = track(self.steps, f"replaying {len(weights) - 1} times", len(self.steps))
        for t, step in enumerate(steps):
            w = weights[:, step.index.to(weights.device)]
            if state.streams is not None:
                state.streams.set()
            g = self.start.objective.gradients(layout.unpack(theta), forward.buffers(state), w, step)
            later, grads = forward.looked_at(state, step)
            with torch.no_grad():
                theta, memory = forward.moved(state, (theta, memory, g), step, grads)
            if t == 0 and float((theta[0] - later.theta).norm()) > SAME * float(
                (later.theta - state.theta).norm()
            ):
                return None
            state = later
        return theta[1:]

    def alone(self, w: Float[Tensor, " n"]) -> Objective:
        """One replay by itself."""
        state = self.start.state
        for step in track(self.steps, "replaying", len(self.steps)):
            state = self.forward.advanced(state, step, w[step.index.to(w.device)])
        return self.start.problem_at(state)


def _same_buffers(a: State, b: State) -> bool:
    return all(torch.equal(value, b.buffers[name]) for name, value in a.buffers.items())
