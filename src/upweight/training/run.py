"""A recorded run of training: replayed from its start, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..data.examples import as_rows
from ..errors import InfluenceError
from ..measures import MeasureLike, as_measure
from ..network.problem import Problem
from ..runtime.alone import alone
from ..runtime.described import described
from ..runtime.distributed import gather_rows, shard
from ..runtime.fallback import out_of_memory
from ..runtime.fingerprint import Identified, content_hash
from ..runtime.progress import track
from ..runtime.unchanging import derived
from ..types import ArrayLike, Tensor
from .agreement import check_agreement
from .ending import check_end
from .forward import Forward
from .groups import Schedule, scheduled
from .journal import Begun, Journal
from .probes import Probe
from .replays import ReplaysOfRun
from .reverse import Cotangents, Pulled, pulled_back
from .start import Meaning, Start, State
from .states import Room, States
from .statistics import KEPT, gradients_in_buffers
from .steps import Step, Streams, own_streams, parts_of
from .tangents import pushed


class TrainingRun(Identified):
    """A run of training that can be replayed: its start, and for each step the examples and settings.

    The model is copied. `model` is the trained one, `problem` what is asked about it; `Unrolled(run)` answers.

    Args:
        model: the model at its start, before the first step.
        loss: `loss(outputs, targets)`, as `Problem` takes it; of a batch training took the mean.
        train: the training examples, as `Problem` takes them.
        optimizer: a function from parameters to the optimiser, `partial(torch.optim.SGD, lr=0.1)` say, or an optimiser
            over this model's parameters, with what it remembers.
        batches: for each step the numbers of its examples (b,), or a list of several that are accumulated.
        schedule: what multiplies the learning rate, a function of the step (from 0) or one number per step.
        clip: the norm to which gradients were clipped, as `clip_grad_norm_` does it, or None.
        seed: dropout and augmentation of step t (from 0) begin with `torch.manual_seed(seed * 1_000_003 + t)`; None:
            with where torch's random numbers stand now, and go on from step to step.
        weights: what the loss of each example was multiplied by (n,), default 1.
        counts: what it counted in the denominator of its batch's mean (n,), default 1: its number of tokens, say.
        accumulation: of several batches in a step "mean" takes the mean of their means, "sum" the sum, "together" one
            mean over all; a number divides the sum of the means.
        removal: what weight 0 of an example does to the denominator: "kept", or "lowered".
        augment: what was done to each batch, at random, before the model saw it.
        params: the parameters that were trained, by name or pattern, default all that require a gradient.
        trained: the trained model, against whose weights the replay is held.

    Raises:
        ValueError: for batches, weights or settings that do not fit.
        TypeError: for an optimiser that is not known.
        InfluenceError: where the replay does not end in the weights of `trained`.

    >>> import functools, torch
    >>> model, data = torch.nn.Linear(2, 1), (torch.eye(2), torch.ones(2, 1))
    >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
    >>> run = TrainingRun(model, torch.nn.MSELoss(), data, optimizer=sgd, batches=[torch.tensor([0, 1])] * 3)
    >>> len(run.steps), run.n, run.end.theta.shape
    (3, 2, torch.Size([3]))
    """

    start: Start
    """The model, the loss of a step and the optimiser, before the first step."""
    steps: tuple[Step, ...]
    clip: float | None
    room: Room = Room()
    """Where the states of its steps are kept."""
    gap: float | None
    """How far the replay ends from the trained weights, as a share of the way they went; None where none were given."""
    said: str = (
        "Effects are derivatives through the recorded run of training (its start, order of batches, random numbers and "
        "settings): of first order in the change."
    )

    @alone
    def __init__(
        self,
        model: Any,
        loss: Any,
        train: Any,
        *,
        optimizer: Any,
        batches: Sequence[Any],
        schedule: Schedule = None,
        clip: float | None = None,
        seed: int | None = None,
        weights: ArrayLike | None = None,
        counts: ArrayLike | None = None,
        accumulation: Any = "mean",
        removal: Any = "kept",
        augment: Any = None,
        params: Any = None,
        trained: Any = None,
    ) -> None:
        streams = Streams.now() if seed is None else None
        meaning = Meaning(weights, counts, accumulation, removal, augment)
        start = Start.of(model, loss, train, optimizer=optimizer, params=params, meaning=meaning)
        parts = [parts_of(batch, start.base.n, t) for t, batch in enumerate(batches)]
        if not parts:
            raise ValueError("batches is empty: give the examples of at least one step")
        seeds = [None if seed is None else seed * 1_000_003 + t for t in range(len(parts))]
        steps = tuple(map(Step, parts, scheduled(start.groups.start, schedule, len(parts)), seeds))
        if streams is not None:
            start = replace(start, state=start.state._replace(streams=streams))
        super().__init__(start=start, steps=steps, clip=clip, gap=None)
        vars(self)["gap"] = check_end(self.forward, self.steps, self.end, trained)

    @classmethod
    def recorded(cls, start: Start, steps: tuple[Step, ...], clip: float | None, trained: Any) -> TrainingRun:
        """The run that a recorder saw.

        Args:
            start: the model before the first step, its loss and optimiser.
            steps: what was seen.
            clip: the norm to which gradients were clipped, or None.
            trained: the model after the last step.
        """
        run = cls.__new__(cls)
        Identified.__init__(run, start=start, steps=steps, clip=clip, gap=None)
        vars(run)["gap"] = check_end(run.forward, run.steps, run.end, trained)
        return run

    @classmethod
    def train(
        cls,
        model: Any,
        loss: Any,
        train: Any,
        *,
        optimizer: Any,
        epochs: int,
        batch_size: int,
        seed: int = 0,
        drop_last: bool = False,
        **fields: Any,
    ) -> TrainingRun:
        """Train a copy of the model, and remember how; `model` of the run is the trained one.

        Args:
            model: the model at its start.
            loss: `loss(outputs, targets)`.
            train: the training examples.
            optimizer: a function from parameters to the optimiser, or an optimiser over this model's parameters.
            epochs: how often each example is seen.
            batch_size: examples of a step.
            seed: epoch e (from 0) has the order `torch.randperm(n, generator=torch.Generator().manual_seed(seed + e))`;
                dropout and augmentation as for `TrainingRun`.
            drop_last: whether an incomplete last batch of an epoch is left out.
            fields: further keywords of `TrainingRun`.

        Raises:
            ValueError: where no step is left.
        """
        n, batches = len(as_rows(train, torch.device("cpu"), None)), []
        for epoch in range(epochs):
            order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch))
            batches += [part for part in order.split(batch_size) if len(part) == batch_size or not drop_last]
        return cls(model, loss, train, optimizer=optimizer, batches=batches, seed=seed, **fields)

    # -- what it is ------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        rule, visits = self.start.groups.rule, sum(step.count for step in self.steps)
        return (
            f"TrainingRun of {len(self.steps):,} steps of {type(rule).__name__} on {self.n:,} examples, each seen "
            f"{visits / self.n:.3g} times; {self.start.base.p:,} parameters"
        )

    @property
    def n(self) -> int:
        """The number of training examples."""
        return self.start.base.n

    @property
    def forward(self) -> Forward:
        """What takes single steps of it, forward."""
        return Forward(self.start, self.clip)

    @property
    def end(self) -> State:
        """What the last step left."""
        return self.states.end

    @derived
    def model(self) -> torch.nn.Module:
        """The trained model, in eval mode: a copy."""
        return self.start.model_at(self.end)

    @derived
    def problem(self) -> Problem:
        """The trained model as a problem: what test measures and their gradients are taken of."""
        return self.replays.problem.replayed(self.replays)

    @derived
    def replays(self) -> ReplaysOfRun:
        """The run again, with other weights of its examples."""
        end = self.start.problem_at(self.end)
        return ReplaysOfRun(self.start, self.steps, self.forward, self.end, end)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What needs saying of it among the settings."""
        return (KEPT,) if self.start.objective.moving.names else ()

    def last(self, steps: int) -> TrainingRun:
        """The run from so many steps before its end, with the training before them as its start: a warm-up.

        Questions about it are about what the examples did in those steps, and replays begin there too. Derivatives
        cost that share of the whole run's. Raises ValueError for fewer than 1 step and more than there are.
        """
        count = len(self.steps)
        if not 1 <= steps <= count:
            raise ValueError(f"last takes 1 to {count:,} steps of this run, got {steps}")
        first = count - steps
        state = self.states.at(first)
        base = self.start.problem_at(state)
        room = replace(self.room, folder=None)
        return self._copy(
            start=replace(self.start, base=base, state=state), steps=self.steps[first:], room=room
        )

    def within(self, memory: int | None = None, folder: str | Path | None = None) -> TrainingRun:
        """The run with another place for the states of its steps. Nothing else changes, and no answer.

        Args:
            memory: bytes of states that are held in memory at once, default 4 GiB. With less room steps are computed
                again more often: about log2 (steps / states) times.
            folder: keeps states on disk, so that a process that was killed goes on where it was when it begins again;
                `on_loss(store=)` does the same for the way back. Delete it when no answer is needed any more.

        Raises:
            ValueError: for no memory.
        """
        memory = self.room.memory if memory is None else memory
        if memory <= 0:
            raise ValueError(f"memory must be a positive number of bytes, got {memory}")
        return self._copy(room=Room(memory, None if folder is None else Path(folder)))

    def named(self, index: pd.Index) -> TrainingRun:
        """The run with names for its training examples (n,), as tables of scores show them."""
        base = self.start.base
        terms = replace(base.terms, train_index=index)
        return self._copy(start=replace(self.start, base=base.changed(terms=terms)))

    # -- the replay ------------------------------------------------------------------------------------------------

    @derived
    def states(self) -> States:
        """What the steps begin with, by replaying the run. Raises RankError where processes hold different ones."""
        check_agreement(self)
        key = "" if self.room.folder is None else self.fingerprint()
        return States(self.forward, self.steps, self.room, key)

    def gradients(self, test: Any, measure: MeasureLike | None = None) -> Float[Tensor, "m q"]:
        """The gradient of test measures in what the last step left: the parameters, then batch norm's statistics.

        Args:
            test: m test examples.
            measure: what is asked about, default the loss.
        """
        asked, moving = as_measure(measure), self.start.objective.moving
        found = self.problem.test_gradients(test, asked)
        if not moving.names:
            return found
        return torch.cat([found, gradients_in_buffers(self.problem, moving, test, asked)], dim=1)

    @alone
    def derivatives(self, v: Float[Tensor, "m q"], store: str | Path | None = None) -> Float[Tensor, "m n"]:
        """The derivative of each test measure in the weight of each training example, through the whole run.

        Exact for this run: its start, order of batches, random numbers and settings. Of several processes each goes
        back for its share of the measures.

        Args:
            v: what `gradients` gives of m measures, or their gradients in the trained parameters alone.
            store: a folder that keeps how far the pass has come, or None.

        Raises:
            StaleError: where the training data changed since.
        """
        self.check_current()
        length, own = self.states.length, shard(len(v))  # all processes replay before any of them goes back
        v = v[own]
        key = "" if store is None else content_hash([v], f"{self.fingerprint()} {own}")
        journal = Journal(None if store is None else Path(store) / f"through_{key}.safetensors")
        total = torch.zeros(len(v), self.n, dtype=torch.float64)
        begun = journal.read(Begun(len(self.steps) if len(v) else 0, Cotangents.of(v, self.start), total))
        total = begun.total
        for t, _, step, pulled in self._through(begun):
            total.index_add_(1, step.index, pulled.weights.double().cpu())
            if t % length == 0:
                journal.write(Begun(t, pulled.before, total))
        return gather_rows(total)

    def own(self, rows: Int[Tensor, " b"]) -> Float[Tensor, " b"]:
        """The derivative of the own loss of each of b training examples in its weight."""
        return self.derivatives(self.gradients(self.problem.train_batch(rows)))[:, rows].diagonal()

    @alone
    def probed(self, v: Float[Tensor, "m q"], probe: Probe) -> Float[Tensor, "m b *x"]:
        """The derivative of each test measure in what a probe changes at b training rows, through the whole run.

        Args:
            v: what `gradients` gives of m measures.
            probe: changed examples, or inputs.

        Raises:
            StaleError: where the training data changed since.
            ValueError: where none of the rows is in any step.
        """
        self.check_current()
        total: Tensor | None = None
        begun = Begun(len(self.steps), Cotangents.of(v, self.start), v)
        for _, state, step, pulled in self._through(begun, keep=True):
            for slots, values in probe.found(self.forward, state, step, pulled):
                if total is None:
                    total = torch.zeros(len(v), len(probe.rows), *values.shape[2:], dtype=torch.float64)
                total.index_add_(1, slots, values.double().cpu())
        if total is None:
            raise ValueError("none of these training rows is in any step of the run: nothing depends on them")
        return total

    def _through(self, begun: Begun, keep: bool = False) -> Iterator[tuple[int, State, Step, Pulled]]:
        """A pass backwards: the number of each step, what it began with, the step, and the derivatives there."""
        held = begun.held
        with own_streams():
            for t, state, step in track(self.states.backwards(begun.left), "through training", begun.left):
                pulled = self._back(t, state, step, held, keep)
                held = pulled.before
                yield t, state, step, pulled

    def _back(self, t: int, state: State, step: Step, held: Cotangents, keep: bool) -> Pulled:
        try:
            return pulled_back(self.forward, state, step, held, keep)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise InfluenceError(
                f"step {t} of the run does not fit into memory, with the graph of its {step.count} examples and "
                f"{len(held.theta)} test measures: ask about fewer test rows at once, or free memory; what is done is "
                "kept in store=, if one is given"
            ) from error

    @alone
    def moves(self, rows: Int[Tensor, " k"]) -> Float[Tensor, "k p"]:
        """The derivative of the trained parameters in the weight of each of k training examples, by one pass forwards.

        Raises StaleError where the training data changed since.
        """
        self.check_current()
        rows = rows[shard(len(rows))]
        state, zeros = self.start.state, self.start.state.theta.new_zeros(len(rows), self.start.base.p)
        held = Cotangents(zeros, tuple(zeros for _ in state.memory), {})
        with own_streams():
            for step in track(self.steps if len(rows) else (), "forwards through training", len(self.steps)):
                dw = (rows[:, None] == step.index).to(zeros)
                held = pushed(self.forward, state, step, held, dw)
                state = self.forward.advanced(state, step)
        return gather_rows(held.theta)

    # -- what tells that it is still the one that was asked about --------------------------------------------------

    def identity(self) -> tuple[list[Tensor], str]:
        steps, averaging = self.steps, self.start.objective.averaging
        tensors = [self.start.state.theta, *self.start.state.memory, averaging.weights, averaging.counts]
        for step in steps:
            tensors += [step.index, *(one.cpu for one in step.streams or ())]
        sizes = [[len(part) for part in step.parts] for step in steps]
        words = (
            f"{self.start.base.fingerprint()} {self.start.groups.rule!r} {self.clip} {averaging.accumulation} "
            f"{averaging.removal} {sizes} {[step.settings for step in steps]} {[step.seed for step in steps]} "
            f"{described(self.start.objective.augment)}"
        )
        return tensors, words

    def check_data(self) -> None:
        self.start.base.check_data()
