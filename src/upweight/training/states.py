"""What steps of a run begin with: some states are kept, within a stated budget, and the rest are computed again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..runtime import tensor_files
from ..runtime.alone import differentiating
from ..runtime.distributed import rank, together
from ..runtime.progress import track
from .forward import Forward
from .start import State
from .steps import Step, Streams, own_streams

MEMORY = 4 << 30
"""Bytes of states that a run keeps in memory at once, where nobody says how many."""


@dataclass(frozen=True)
class Room:
    """Where states are kept.

    Args:
        memory: bytes of states that are held in memory at once.
        folder: keeps the states between segments on disk, also for a process that begins again; None: in memory.
    """

    memory: int = MEMORY
    folder: Path | None = None

    def states(self, state: State) -> int:
        """How many states as large as this one are held at once, at least two."""
        tensors = [state.theta, *state.memory, *state.buffers.values()]
        return max(2, self.memory // max(1, sum(one.nbytes for one in tensors)))


class States:
    """The states that a run's steps begin with.

    Every segment of steps begins with a state that is kept; within a segment they are computed again, all at once where
    there is room, else one half after the other. It is made by replaying the run, from the last state on disk on; of
    several processes that share a folder the first one replays, and the others read.

    Args:
        forward: takes single steps.
        steps: of the run.
        room: where states are kept.
        key: names the run's files.
    """

    def __init__(self, forward: Forward, steps: tuple[Step, ...], room: Room, key: str) -> None:
        start, count = forward.start.state, len(steps)
        self.forward, self.steps, self.room, self.key = forward, steps, room, key
        self.length = math.ceil(math.sqrt(count))
        self.within = room.states(start)
        if room.folder is None:  # one half of the room for the states between segments, one for those inside
            self.within = max(1, self.within // 2)
            self.length = max(self.length, math.ceil(count / self.within))
        else:
            room.folder.mkdir(parents=True, exist_ok=True)
        self._held: dict[int, State] = {}
        self._keep(0, start)
        with together():
            if room.folder is None or rank() == 0:
                self._replay()
        self.end = self.at(count)

    def _replay(self) -> None:
        """Go through the steps, from the last one that a state is there of."""
        count = len(self.steps)
        first = max(t for t in range(count + 1) if self._keeps(t) and self._there(t))
        with differentiating(), own_streams():
            state = self.at(first)
            for t in track(range(first, count), "replaying", count - first):
                state = self.forward.advanced(state, self.steps[t])
                if self._keeps(t + 1):
                    self._keep(t + 1, state)

    def _keeps(self, t: int) -> bool:
        return t % self.length == 0 or t == len(self.steps)

    def at(self, t: int) -> State:
        """What step t begins with; after the last one, what it left."""
        first = t if self._keeps(t) else t - t % self.length
        state = self._held[first] if first in self._held else self._read(first)
        with differentiating(), own_streams():
            for step in self.steps[first:t]:
                state = self.forward.advanced(state, step)
        return state

    def backwards(self, count: int) -> Iterator[tuple[int, State, Step]]:
        """The first steps from the last to the first: number, what it begins with, step.

        `count` is the number of steps from the first.
        """
        for first in reversed(range(0, count, self.length)):
            yield from self._walked(self.at(first), first, min(first + self.length, count), self.within)

    def _walked(self, state: State, first: int, stop: int, room: int) -> Iterator[tuple[int, State, Step]]:
        """Some steps backwards, with so many states at once.

        Args:
            state: what the first of them begins with.
            first: its number.
            stop: that of the step after the last.
            room: how many states are held, this one among them.
        """
        if stop - first <= max(1, room):
            states = [state]
            for step in self.steps[first : stop - 1]:
                states.append(self.forward.advanced(states[-1], step))
            for t in reversed(range(first, stop)):
                yield t, states.pop(), self.steps[t]
            return
        middle = (first + stop) // 2
        there = state
        for step in self.steps[first:middle]:
            there = self.forward.advanced(there, step)
        yield from self._walked(there, middle, stop, room - 1)
        del there
        yield from self._walked(state, first, middle, room)

    # -- in memory or on disk --------------------------------------------------------------------------------------

    def _path(self, t: int) -> Path:
        assert self.room.folder is not None
        return self.room.folder / f"state_{self.key}_{t}.safetensors"

    def _there(self, t: int) -> bool:
        return t in self._held or (self.room.folder is not None and self._path(t).exists())

    def _keep(self, t: int, state: State) -> None:
        if self.room.folder is None or t == 0:
            self._held[t] = state
            return
        tensors = {"theta": state.theta}
        tensors |= {f"memory{i}": one for i, one in enumerate(state.memory)}
        tensors |= {f"buffer {name}": one for name, one in state.buffers.items()}
        if state.streams is not None:
            tensors |= {
                f"stream{i}": one for i, one in enumerate([state.streams.cpu, *state.streams.devices])
            }
        tensor_files.write(self._path(t), tensors, {"counted": list(state.counted)})

    def _read(self, t: int) -> State:
        """A state from its file. Raises ValueError for a damaged one, with what to do."""
        start = self.forward.start.state
        found, words = tensor_files.read(self._path(t), "a state of a run", "theta", "counted")
        memory = tuple(found[f"memory{i}"].to(one) for i, one in enumerate(start.memory))
        buffers = {name: found[f"buffer {name}"].to(one) for name, one in start.buffers.items()}
        streams = None
        if start.streams is not None:
            each = [found[f"stream{i}"] for i in range(1 + len(start.streams.devices))]
            streams = Streams(each[0], tuple(each[1:]))
        return State(found["theta"].to(start.theta), memory, tuple(words["counted"]), buffers, streams)
