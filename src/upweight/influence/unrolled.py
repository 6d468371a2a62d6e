"""Influence through training: the derivatives of a recorded run, step by step from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float

from ..data.row_sets import as_sets
from ..data.user_terms import batch_index
from ..measures import Measure, MeasureLike, as_measure, name_of
from ..network.problem import Problem
from ..runtime.alone import each_alone
from ..runtime.progress import track
from ..training.run import TrainingRun
from ..training.statistics import KEPT
from ..types import Tensor
from .influence import Influence
from .removal import Removal
from .scores import Scores
from .top_k import strongest

SAID = (
    "Effects are derivatives through the recorded run of training (its start, order of batches, random numbers and "
    "settings), times the removal: of first order in the row's weight."
)


@dataclass(frozen=True)
class RunSettings:
    """How a recorded run answers, in words."""

    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.reasons)


@each_alone
class Unrolled:
    """Answers about a trained network by the derivatives of its whole training: they need no minimum and no Hessian.

    Each is exact for the recorded run: with the same start, order of batches, random numbers and settings. Signs and
    scales are those of `Influence`: `on_loss` is n times the derivative of the test loss in the weight of a training
    example, and -1/n of it the predicted change if the example is removed and training repeated.

    Args:
        run: the recorded run.

    >>> import functools, torch
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.tensor([[0.0], [4.0]]))
    >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
    >>> run = TrainingRun(model, torch.nn.MSELoss(), data, optimizer=sgd, batches=[torch.tensor([0, 1])] * 30)
    >>> Unrolled(run).on_loss(data).values.round(decimals=1)  # at the minimum, as Influence has them
    tensor([[ 8., -8.],
            [-8.,  8.]], dtype=torch.float64)
    """

    def __init__(self, run: TrainingRun) -> None:
        if not callable(getattr(run, "derivatives", None)):
            raise TypeError(
                f"Unrolled takes a TrainingRun, got {type(run).__name__}: record or replay the training with "
                "TrainingRun, or ask Influence(problem) about the last weights alone"
            )
        self.run = run
        self.row_steps: None = None

    @property
    def problem(self) -> Problem:
        """The trained model."""
        return self.run.problem

    @property
    def formulas(self) -> Influence:
        """Itself: answers by derivatives, in the form of `Influence`."""
        return cast(Influence, self)

    @cached_property
    def settings(self) -> RunSettings:
        """How it answers: what was recorded."""
        said = (KEPT,) if self.run.start.objective.moving.names else ()
        return RunSettings((f"through training: {self.run!r}", *said, *self.problem.remarks))

    @cached_property
    def fingerprint(self) -> str:
        """A content hash of all that answers depend on, as score files carry it."""
        return self.run.fingerprint()

    def on_loss(
        self,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        top: int | None = None,
        store: str | Path | None = None,
    ) -> Scores:
        """N times the derivative of each test measure in the weight of each training example, through training.

        All test examples go backwards through the run together: ask about them at once.

        Args:
            test: m test examples, as the problem takes them.
            measure: any differentiable function in place of the loss.
            top: only the k most helpful and k most harmful training rows of each test row are kept.
            store: a folder that keeps what is finished: a pass that was cut off goes on from there.

        Returns:
            Scores (m, n); -1/n of them are the predicted changes if the example is removed and training repeated.
        """
        asked = as_measure(measure)
        v = self.run.gradients(test, asked)
        values = self.run.derivatives(v, store) * self.run.n
        columns = None
        if top is not None:
            values, columns = strongest([(slice(0, self.run.n), values)], len(values), top)
        return self._scores(values, test, asked, columns=columns)

    def of_each_removal(
        self,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        steps: Any = None,
        top: Any = None,
        rows: Any = None,
    ) -> Scores:
        """What `on_loss` gives: through training no better number is at hand but the replay itself (`verify`).

        Args:
            test: m test examples.
            measure: what is asked about, default the loss.
            steps: not used here.
            top: not used here, all rows have the same.
            rows: not used here.
        """
        return self.on_loss(test, measure=measure)

    @cached_property
    def own(self) -> Scores:
        """What `on_self()` gives, computed once and kept."""
        return self.on_self()

    def on_self(self, *, block: int = 256) -> Scores:
        """N times the derivative of each training example's own loss in its weight: as many passes as blocks.

        Args:
            block: examples that go backwards through the run together.

        Gives Scores (1, n), negative as a rule.
        """
        problem, n = self.problem, self.run.n
        values = torch.empty(1, n, dtype=torch.float64)
        for part in track(torch.arange(n).split(block), "on themselves", None):
            v = self.run.gradients(problem.train_batch(part))
            values[0, part] = self.run.derivatives(v)[:, part].diagonal() * n
        return Scores(
            values, n, measure="own loss", ids=problem.train_index, said=(SAID,), provenance=self._about()
        )

    def of_removal(
        self, groups: Any, test: Any, *, measure: MeasureLike | None = None, replay: bool = False
    ) -> Removal:
        """The change of each test measure if whole sets of training rows are removed.

        Args:
            groups: sets of rows, in any form that `Influence.of_removal` takes.
            test: m test examples.
            measure: what is asked about, default the loss.
            replay: whether training is also replayed without each set, which is no prediction any more: `recomputed`.

        Gives changes (m, g) in the measure's unit; positive = the measure would rise.
        """
        names, sets = as_sets(groups, self.run.n, self.problem.train_index)
        found = Removal.of_first_order(self.on_loss(test, measure=measure), names, sets)
        return replace(found, recomputed=self._replayed(sets, test, as_measure(measure))) if replay else found

    def _replayed(self, sets: list[Tensor], test: Any, measure: Measure | None) -> Float[Tensor, "m g"]:
        before, replays = self.problem.evaluate(test, measure), self.problem.replays
        assert replays is not None
        each = [after.evaluate(test, measure) - before for after in replays.without(sets)]
        return torch.stack(each, dim=1).double().cpu()

    def _about(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "settings": list(self.settings.reasons),
            "keep": "total",
            "notes": list(self.problem.terms.notes),
            "away": "",
        }

    def _scores(self, values: Tensor, test: Any, measure: Measure | None, **fields: Any) -> Scores:
        known: dict[str, Any] = {
            "measure": name_of(measure),
            "ids": self.problem.train_index,
            "test_ids": batch_index(test) if measure is None or not measure.single else None,
            "said": (SAID,),
            "provenance": self._about(),
        }
        return Scores(values, self.run.n, **{**known, **fields})
