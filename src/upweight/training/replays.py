"""The run again without some of its examples, many times at once: what its derivatives are held against."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..capabilities import Replays
from ..network.problem import Problem
from ..objective import Objective
from ..runtime.alone import differentiating
from ..runtime.fallback import attempt
from ..runtime.progress import track
from ..types import Params, Tensor
from .forward import Forward
from .rules import Memory
from .start import Start, State
from .steps import Step, own_streams

TOGETHER_BYTES = 1 << 29
"""Parameters, memory and gradients of runs that are replayed at once."""
MOST_TOGETHER = 128
IN_CACHE = 1 << 17
"""Entries of theta of all runs that an optimiser moves at once: its temporaries stay in the processor's cache."""
SAME = 1e-4
"""How far a replay among others may be from the run itself after its first step, as a share of that step."""
SAME_END = 1e-3
"""The same after the last step, where rounding has grown, as a share of the way that the run went."""


class Ends(NamedTuple):
    """What r replays left: parameters (r, p), and buffers by name where these moved."""

    theta: Float[Tensor, "r p"]
    buffers: Params


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
        weights = self.start.state.theta.new_ones(len(sets), self.start.base.n)
        for w, rows in zip(weights, sets, strict=True):
            w[rows] = 0
        yield from self.weighted(weights)

    def weighted(self, weights: Float[Tensor, "r n"]) -> Iterator[Objective]:
        """The model at the end of each of r replays with those weights: as many at once as there is room for.

        Args:
            weights: multiples (r, n) of the weights in training.
        """
        state = self.start.state
        vectors = 4 + 2 * len(state.memory)
        room = TOGETHER_BYTES // (vectors * self.start.base.p * state.theta.element_size())
        for some in weights.split(max(1, min(MOST_TOGETHER, room))):
            yield from self._some(some)

    def _some(self, weights: Float[Tensor, "r n"]) -> Iterator[Objective]:
        """The ends of r replays, all at once where that can be."""
        with differentiating(), own_streams():
            ends = attempt(lambda: self.together(weights), lambda: None)
            if ends is None:
                yield from map(self.alone, weights)
            elif ends.buffers:
                for r in range(len(weights)):
                    buffers = {name: one[r] for name, one in ends.buffers.items()}
                    yield self.start.problem_at(self.end._replace(theta=ends.theta[r], buffers=buffers))
            else:
                yield from map(self.problem.at, ends.theta)

    def together(self, weights: Float[Tensor, "r n"]) -> Ends | None:
        """What is left at the end of r replays, all at once.

        Args:
            weights: multiples (r, n) of the weights in training.

        Returns:
            None where buffers move that are not batch norm's, and where the run itself, replayed among the others, does
            not end where it ended: its random numbers are others than one by one.

        Raises:
            RuntimeError: for models that torch cannot vectorise.
        """
        state, objective = self.start.state, self.start.objective
        moved = [name for name, one in state.buffers.items() if not torch.equal(one, self.end.buffers[name])]
        if any(
            state.buffers[name].is_floating_point() and name not in objective.moving.names for name in moved
        ):
            return None
        forward, layout = self.forward, self.start.base.layout
        weights = torch.cat([weights.new_ones(1, self.start.base.n), weights])

        def expanded(one: Tensor) -> Tensor:
            return one.expand(len(weights), *one.shape)

        theta, memory = expanded(state.theta).clone(), tuple(expanded(one).clone() for one in state.memory)
        buffers = {name: expanded(one) for name, one in state.buffers.items()} if moved else {}
        steps = track(self.steps, f"replaying {len(weights) - 1} times", len(self.steps))
        for t, step in enumerate(steps):
            w = weights[:, step.index.to(weights.device)]
            if state.streams is not None:
                state.streams.set()
            found, buffers = objective.gradients(layout.unpack(theta), buffers, w, step)
            later, grads = forward.looked_at(state, step)
            with torch.no_grad():
                self._move(theta, memory, found, state, step, grads)
            if t == 0 and not _near(theta[0], later, state, SAME):
                return None
            state = later
        if not _near(theta[0], self.end, self.start.state, SAME_END):
            return None
        return Ends(theta[1:], {name: one[1:] for name, one in buffers.items()})

    def _move(
        self,
        theta: Float[Tensor, "r p"],
        memory: Memory,
        found: Params,
        state: State,
        step: Step,
        grads: Mapping[str, Tensor | None],
    ) -> None:
        """Move r runs by one step of the optimiser, in place: a few at a time, so that nothing leaves the cache.

        Args:
            theta: their parameters.
            memory: their optimisers' memory.
            found: their gradients, by parameter.
            state: what the step of the run itself begins with.
            step: the step.
            grads: tells in which parameters there is a gradient.
        """
        forward, layout = self.forward, self.start.base.layout
        if (straight := forward.straight(step, grads)) is not None:
            kept, factor = straight
            for name, part in layout.unpack(theta).items():
                if kept != 1:
                    part.mul_(kept)
                part.add_(found[name], alpha=factor)
            return
        few = max(1, IN_CACHE // layout.size)
        for first in range(0, len(theta), few):
            some = slice(first, first + few)
            g = layout.pack({name: part[some] for name, part in found.items()}, 1)
            held = theta[some], tuple(one[some] for one in memory)
            theta[some], moving = forward.moved(state, (*held, g), step, grads)
            for one, new in zip(memory, moving, strict=True):
                one[some] = new

    def alone(self, w: Float[Tensor, " n"]) -> Objective:
        """One replay by itself."""
        state = self.start.state
        for step in track(self.steps, "replaying", len(self.steps)):
            state = self.forward.advanced(state, step, w[step.index.to(w.device)])
        return self.start.problem_at(state)


def _near(theta: Float[Tensor, " p"], there: State, start: State, share: float) -> bool:
    """Whether parameters are those of a state but for a share of the way that it has come from another."""
    return float((theta - there.theta).norm()) <= share * float((there.theta - start.theta).norm())
