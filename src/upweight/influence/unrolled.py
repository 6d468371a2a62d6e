"""Influence through training: the derivatives of a recorded run, step by step from the last to the first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch
from jaxtyping import Float

from ..data.names import check_edit
from ..data.row_sets import as_sets
from ..data.user_terms import batch_index
from ..measures import Measure, MeasureLike, as_measure, name_of
from ..network.problem import Problem
from ..runtime.alone import each_alone
from ..runtime.fingerprint import content_hash
from ..runtime.progress import track
from ..training.probes import Changed, Inputs
from ..training.run import TrainingRun
from ..training.segments import Segments
from ..types import ArrayLike, Tensor
from . import checks
from .given_rows import GivenRows, given_rows, numbered
from .influence import Influence
from .leave_one_out import LeaveOneOut
from .removal import Removal
from .replayed import REMOVALS, Replayed, by_replays
from .score_store import Plan
from .scores import Scores
from .stored_run import scores_in
from .top_k import strongest


@dataclass(frozen=True)
class RunSettings:
    """How a recorded run answers, in words."""

    reasons: tuple[str, ...]
    curvature: None = None
    """Nothing is solved, and nothing damped."""

    def __str__(self) -> str:
        return "\n".join(self.reasons)


@each_alone
class Unrolled:
    """Answers about a trained network by the derivatives of its whole training: they need no minimum and no Hessian.

    Each is exact for the recorded run: with the same start, order of batches, random numbers and settings. Signs and
    scales are those of `Influence`: `on_loss` is n times the derivative of the test loss in the weight of a training
    example, and -1/n of it the predicted change if the example is removed and training repeated.

    Args:
        run: the recorded run, or `Segments` of it, which cost less and are an approximation.

    >>> import functools, torch
    >>> model, data = torch.nn.Linear(1, 1, bias=False), (torch.ones(2, 1), torch.tensor([[0.0], [4.0]]))
    >>> sgd = functools.partial(torch.optim.SGD, lr=0.1)
    >>> run = TrainingRun(model, torch.nn.MSELoss(), data, optimizer=sgd, batches=[torch.tensor([0, 1])] * 99)
    >>> Unrolled(run).on_loss(data).values.round(decimals=1)  # at the minimum, as Influence has them
    tensor([[-8.,  8.],
            [ 8., -8.]], dtype=torch.float64)
    """

    def __init__(self, run: TrainingRun | Segments) -> None:
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
    def formulas(self) -> Unrolled:
        """Itself: answers by derivatives, in the form of `Influence`."""
        return self

    @cached_property
    def settings(self) -> RunSettings:
        """How it answers: what was recorded."""
        return RunSettings((f"through training: {self.run!r}", *self.run.remarks, *self.problem.remarks))

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
            store: a folder that keeps all that is finished: a pass that was cut off goes on from there, and
                `ScoreStore(folder)` reads any test row. With `top` they need not fit into memory.

        Returns:
            Scores (m, n); -1/n of them are the predicted changes if the example is removed and training repeated.

        Raises:
            StaleError: for a folder with scores of others, and where the model or the data changed.
        """
        checks.options(top, None, store)
        asked = as_measure(measure)
        v = self.run.gradients(test, asked)
        if store is not None:
            return self._stored(v, test, asked, top, Path(store))
        values = self.run.derivatives(v) * self.run.n
        columns = None
        if top is not None:
            values, columns = strongest([(slice(0, self.run.n), values)], len(values), top)
        return self._scores(values, test, asked, columns=columns)

    def _stored(self, v: Tensor, test: Any, measure: Measure | None, top: int | None, folder: Path) -> Scores:
        """The scores by way of a folder, see `store`."""
        problem, run = self.problem, self.run
        problem.check_unmoved()
        about = self._scores(torch.empty(len(v), 0, dtype=torch.float64), test, measure)
        key, plan = content_hash([v], self.fingerprint), Plan.of(len(v), problem)
        return scores_in(folder, key, plan, v, lambda some: run.derivatives(some, folder) * run.n, about, top)

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
            values[0, part] = self.run.own(part) * n
        return Scores(
            values,
            n,
            measure="own loss",
            ids=problem.train_index,
            said=(self.run.said,),
            provenance=self._about(),
        )

    def of_removal(
        self,
        groups: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        replay: bool = False,
        guarantee: int = 0,
    ) -> Removal:
        """The change of each test measure if whole sets of training rows are removed.

        Args:
            groups: sets of rows, in any form that `Influence.of_removal` takes.
            test: m test examples.
            measure: what is asked about, default the loss.
            replay: whether training is also replayed without each set, which is no prediction any more: `recomputed`.
            guarantee: 0: there are guaranteed intervals for linear models alone.

        Gives changes (m, g) in the measure's unit; positive = the measure would rise.
        """
        if guarantee:
            raise TypeError(
                "guaranteed intervals are for linear models: of a run replay=True gives the changes themselves"
            )
        names, sets = as_sets(groups, self.run.n, self.problem.train_index)
        found = Removal.of_first_order(self.on_loss(test, measure=measure), names, sets)
        return replace(found, recomputed=self._replayed(sets, test, as_measure(measure))) if replay else found

    def replayed(
        self, test: Any, *, measure: MeasureLike | None = None, removals: int = REMOVALS, seed: int = 0
    ) -> Replayed:
        """Effects with an error bar each, from replays without some rows: where training is not smooth, they are wide.

        A derivative is right and predicts nothing where training is not smooth in the weights (large steps, kinks,
        early training from scratch). `scores` of the answer are those of `on_loss` with `errors`: give or take two of
        them, an effect holds in 95 % of removals.

        Args:
            test: m test examples.
            measure: what is asked about, default the loss.
            removals: rows that are replayed, each with half its weight and with none, at least 19.
            seed: which rows are drawn.
        """
        asked = as_measure(measure)
        return by_replays(
            self.on_loss(test, measure=asked), self.problem, (test, asked), removals=removals, seed=seed
        )

    def of_change(
        self,
        before: Any,
        after: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        weights: ArrayLike | None = None,
    ) -> Scores:
        """N times the derivative of each test measure as an example gets the loss of another, through training (Eq. 3).

        The example's loss is replaced in all recorded places: (1 - e) of its own and e of the other's, at e = 0, with
        the same weight, count and random numbers. The predicted change of the measure is `effect()` = +1/n of it. With
        batch norm in train mode it is the whole batch's loss, and its statistics, that are replaced by those of the
        batch with the other example: as many gradients of a step as examples are changed there.

        Args:
            before: b training examples, by number.
            after: b examples in their place, a batch of the same form.
            test: m test examples.
            measure: what is asked about, default the loss.
            weights: not used here: rows by number have those of training.

        Gives Scores (m, b) whose `edit` is "replaced". Raises ValueError for another number of examples after, and for
        examples of another form.
        """
        given = self._given(before, weights)
        assert given.numbers is not None
        rows = self.problem.passes.test_rows(after)
        check_edit(given.ids, batch_index(after))
        if len(rows) != len(given.numbers):
            raise ValueError(f"`before` has {len(given.numbers)} examples, `after` has {len(rows)}")
        asked = as_measure(measure)
        probe = Changed(given.numbers, rows.take(slice(0, len(rows))))
        values = self.run.probed(self.run.gradients(test, asked), probe) * self.run.n
        return self._scores(values, test, asked, ids=given.ids, edit="replaced")

    def on_inputs(
        self,
        rows: Any,
        test: Any,
        *,
        measure: MeasureLike | None = None,
        weights: ArrayLike | None = None,
        at: str | None = None,
    ) -> Float[Tensor, "m b *x"]:
        """N times the derivative of each test measure in the inputs of training examples, through training (Eq. 5).

        The measure of a replay changes by 1/n of it times delta when x becomes x + delta, in all recorded places and
        before augmentation.

        Args:
            rows: b training examples, by number.
            test: m test examples.
            measure: what is asked about, default the loss.
            weights: not used here: rows by number have those of training.
            at: a layer of the network whose outputs are the inputs then.

        Gives one derivative per test example, training example and number of its input, (m, b, ...). Raises TypeError
        for inputs without derivatives (whole numbers), ValueError for a layer that is not there or runs more than once.
        """
        given = self._given(rows, weights)
        assert given.numbers is not None
        v = self.run.gradients(test, measure)
        return self.run.probed(v, Inputs(given.numbers, at)).to(v) * self.run.n

    def on_params(self, rows: Any, *, weights: ArrayLike | None = None) -> Float[Tensor, "b p"]:
        """N times the derivative of the trained parameters in the weight of training examples (Eq. 1).

        `rows` are b training examples, by number; `weights` are not used here. One pass forwards for all of them; -1/n
        of a row is the predicted move of the parameters if that example is removed and training repeated.
        """
        given = self._given(rows, weights)
        assert given.numbers is not None
        return self.run.moves(given.numbers) * self.run.n

    def solve(self, rows: Any) -> Any:
        """Nothing is solved through training. Raises TypeError, which says what to ask in its place."""
        raise TypeError(
            "this use solves with a curvature, and there is none through training: ask on_loss, of_change or on_inputs "
            "of the Unrolled, or use Influence(run.problem) for the last weights alone"
        )

    def leave_one_out(self) -> LeaveOneOut:
        """Nothing is known of all rows left out at once. Raises TypeError, which says what to ask in its place."""
        raise TypeError(
            "the outputs without each row are for linear models: of a run verify replays some removals"
        )

    def _given(self, rows: Any, weights: ArrayLike | None) -> GivenRows:
        """Training rows by number. Raises TypeError for a batch."""
        if numbered(rows, self.run.n, self.problem.train_index) is None:
            raise TypeError(
                f"through training, rows are numbers of training examples, got {type(rows).__name__}: a batch does not "
                "say in which steps it was"
            )
        return given_rows(self.problem, rows, weights)

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
            "said": (self.run.said,),
            "provenance": self._about(),
        }
        return Scores(values, self.run.n, **{**known, **fields})


Answers: TypeAlias = Influence | Unrolled
"""What answers by derivatives, at a minimum or through training: with the same names, signs and scales."""
