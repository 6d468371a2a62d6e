"""Why did the model say this: the training examples, and in each of them the columns, that are responsible."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pandas as pd
import torch

from ..capabilities import Reduced
from ..influence.scores import Scores
from ..influence.shown import SHOWN, sides
from ..influence.unrolled import Answers
from ..measures import MeasureLike, as_measure
from ..objective import LinearModel, Objective
from ..retraining import Refits
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .baselines import baselines
from .labels import feature_name, label_names
from .parts import BEND, ELSEWHERE, FOLLOWS, SHARE, START, in_words, part_names, parts_of_effects
from .said import Said, said_by_refits, said_of
from .stability import RESAMPLES, SMALL, Stability, stability


@dataclass(frozen=True, eq=False)
class Explanation:
    """The training rows responsible for one prediction, as `explain` found them.

    `helpful` and `harmful` have a line per training row: influence, predicted effect of its removal (positive = the
    measure would rise; of a linear model by a Newton step without the row), its label, and for linear models, trees and
    moments of classes "because of": the largest parts of the effect by columns, in its unit, and the rest of them.
    `parts` are two tables with all of them, for the rows of `helpful` and of `harmful`: a line adds up to the row's
    effect. `said` is what such a model says of the test row, and the row's own label.

    For another measure than the loss `helpful` are the rows without which it would rise (they lower it), `harmful`
    those without which it would fall.
    """

    scores: Scores
    helpful: pd.DataFrame
    harmful: pd.DataFrame
    said: Said = field(default_factory=Said)
    relative: bool = False
    parts: tuple[pd.DataFrame, ...] = ()
    stable: Stability | None = None
    """How often each row stands among the k strongest of its side when training rows are resampled, where known."""
    comparisons: tuple[str, ...] = ()
    """Whether these rows would stay, and whether simpler rankings name them too, a sentence each."""

    @property
    def prediction(self) -> Any:
        """The class or value that the model says, or None where that is not known."""
        return self.said.prediction

    @property
    def label(self) -> Any:
        """The class or value of the test row itself, or None where that is not known."""
        return self.said.label

    @property
    def question(self) -> str:
        """What is explained, in a sentence or two: the prediction beside its label, and how the rows are ranked."""
        ranking = "effect relative to the row's own pull (relative influence)" if self.relative else "effect"
        said = f"{self.said} " if str(self.said) else ""
        return f"{said}Training rows by {ranking} on the {self.scores.measure}."

    @property
    def headings(self) -> tuple[str, str]:
        """What stands above `helpful` and `harmful`: "Helpful" and "Harmful" of a loss, else what they do to it."""
        return tuple(role.capitalize() for role in self.scores.roles)  # type: ignore[return-value]

    def __repr__(self) -> str:
        first, second = self.headings
        tables = f"{first}\n{self.helpful.to_string()}\n{second}\n{self.harmful.to_string()}"
        return plain("\n".join([self.question, *self._words(), tables]))

    def _words(self) -> list[str]:
        nothing = not bool(self.scores.effect().nan_to_num(0).any())
        idle = ["No training row changes it by its removal alone."] if nothing else []
        return [*idle, self.scores.sign, self.scores.prediction, *self.scores.remarks, *self.comparisons]

    def _repr_html_(self) -> str:
        first, second = self.headings
        return as_html(self.question, *self._words(), first, self.helpful, second, self.harmful)


def explain(
    influence: Answers | Refits,
    test: Any,
    *,
    k: int = 10,
    relative: bool = False,
    measure: MeasureLike | None = None,
    first_order: bool = False,
    resamples: int | None = None,
) -> Explanation:
    """The k most helpful and the k most harmful training rows of one prediction, and the columns responsible.

    Effects are those of `Influence.of_each_removal`: of a linear model Newton steps. The first question costs about one
    more factorisation, the next ones little; relative influence takes the self-influence of all rows as well.

    Args:
        influence: of the model, or what `by_refitting` gives, whose effects have standard errors.
        test: one test example, as the problem takes batches.
        k: rows of each kind, >= 1.
        relative: ranks by I(z, z_test) / sqrt(self-influence of z), so that rows that move every prediction (outliers)
            do not fill every list (RelatIF: Barshan et al., 2020).
        measure: what is asked about, default the loss.
        first_order: whether effects are of first order (Eq. 2) for linear models too.
        resamples: how often training rows are resampled to tell whether the rows of a linear model would stay
            (`stability`), 0 for not at all; None: 100 where that takes about a second.

    Raises:
        ValueError: for more than one test row or k < 1, and for relative influence by refits.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 4.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1))
    >>> explain(influence, (X[:1], y[:1]), k=1).helpful["because of"].str.startswith("column 0").tolist()
    [True]
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    if (formulas := influence.formulas) is None:
        if relative:
            raise ValueError(
                "relative influence takes self-influence, which refits do not give: leave relative out"
            )
        return _by_refits(cast(Refits, influence), test, k, measure)
    influence, problem, model = formulas, formulas.problem, formulas.problem.linear
    if model is not None:
        test = model.prepared(test)
    k, own, shown = min(k, problem.n), None, None
    if relative:
        own = _relative(influence, test, measure)
        shown = torch.cat(sides(-own, k))
    if first_order:
        scores = influence.on_loss(test, measure=measure)
    else:
        scores = influence.of_each_removal(test, measure=measure, top=max(k, SHOWN), rows=shown)
    _check_one(scores)
    split = None
    if model is not None and _smooth(measure):
        split = _split(influence, model, scores, test, measure)
    elif problem.stages is not None and problem.output_model is not None:
        split = _split_by_leaves(influence, scores, problem.output_model.prepared(test)[0], (test, measure))
    elif problem.reduced is not None and _smooth(measure):
        split = _split_by_moments(problem, problem.reduced, scores, (test, measure))
    both, stable = sides(scores.effect()[0] if own is None else -own, k), None
    compared: tuple[str, ...] = ()
    if model is not None and not relative:
        asked = resamples if scores.changes is not None else 0  # first order: no step without a row is known
        stable, compared = _compared(influence, model, test, both, measure, asked)
    tables, parts = [], []
    for side, rows in enumerate(both):
        table = scores.table(rows)
        if own is not None:
            table.insert(1, "relative influence", own[rows].numpy())
        if stable is not None:
            table[stable.heading] = stable.shares(side, rows)
        if (spoken := problem.output_model) is not None:
            table["label"] = label_names(spoken, spoken.y[rows])
        if split is not None:
            parts.append(split(rows).set_axis(table.index))
            table["because of"] = [in_words(line) for _, line in parts[-1].iterrows()]
        tables.append(table)
    said = said_of(problem, test)
    return Explanation(scores, tables[0], tables[1], said, relative, tuple(parts), stable, compared)


def _check_one(scores: Scores) -> None:
    if len(scores) != 1:
        raise ValueError(f"explain answers for one test row, got {len(scores)}; pass them one by one")


def _smooth(measure: MeasureLike | None) -> bool:
    asked = as_measure(measure)
    return asked is None or asked.smooth


def _relative(influence: Answers, test: Any, measure: MeasureLike | None) -> Tensor:
    """The influence (n,) of each training row, relative to its own pull on the model."""
    scores = influence.on_loss(test, measure=measure)
    _check_one(scores)
    return scores.values[0] * influence.own.values[0].abs().clamp(min=1e-300).rsqrt()


def _by_refits(refits: Refits, test: Any, k: int, measure: MeasureLike | None) -> Explanation:
    """The rows whose removal matters most, by retraining.

    Args:
        refits: what answers.
        test: one test example.
        k: rows of each kind.
        measure: what is asked about, None for the loss.
    """
    scores = refits.of_each_removal(test, measure=measure)
    _check_one(scores)
    tables = []
    for rows in sides(scores.effect()[0], k):
        tables.append(scores.table(rows))
        tables[-1]["label"] = refits.problem.labels(scores.numbers(rows))
    return Explanation(scores, tables[0], tables[1], said_by_refits(refits.problem, test))


def _compared(
    influence: Answers,
    model: LinearModel,
    test: Any,
    both: tuple[Tensor, Tensor],
    measure: MeasureLike | None,
    resamples: int | None,
) -> tuple[Stability | None, tuple[str, ...]]:
    """Whether the rows shown would stay among the strongest, and what simpler rankings name, with sentences on both.

    Args:
        influence: of the model.
        model: the problem.
        test: one prepared test example.
        both: the numbers of the rows shown.
        measure: what is asked about.
        resamples: as `explain` has it.
    """
    named, asked = torch.cat(both).unique(), as_measure(measure)
    if 2 * len(named) > model.n:  # any ranking would name most of them
        return None, ()
    said, stable = [str(baselines(model, test[0], named))] if test[0].shape[0] == 1 else [], None
    if resamples is None:
        resamples = RESAMPLES if model.n * model.p <= SMALL else 0
    if resamples and (asked is None or not asked.single):
        stable = stability(influence, test, k=len(both[0]), measure=measure, resamples=resamples)
        said.insert(0, stable.summary(both))
    return stable, tuple(said)


def _split_by_leaves(
    influence: Answers, scores: Scores, inputs: Tensor, asked: tuple[Any, MeasureLike | None]
) -> Callable[[Tensor], pd.DataFrame] | None:
    """What takes the effects of some training rows of trees apart by columns, a line for each; None: nobody knows them.

    Through a leaf that the training row shares with the test row an effect goes directly: it is divided evenly among
    the columns on whose splits the two came there together.

    Args:
        influence: of trees.
        scores: the effects.
        inputs: the test row's leaves.
        asked: the test row and the measure.
    """
    problem = influence.problem
    assert problem.stages is not None
    stages, solved = problem.stages, influence.solve(problem.test_gradients(*asked)).value
    if inputs.shape[1] != 1 or stages.parts(torch.arange(1), solved, inputs) is None:
        return None
    effects = scores.effect()[0]

    def parts(rows: Tensor) -> pd.DataFrame:
        found = stages.parts(rows, solved, inputs)
        assert found is not None
        return _with_bend(problem, found, effects[rows], START, ELSEWHERE)

    return parts


def _split_by_moments(
    problem: Objective, reduced: Reduced, scores: Scores, asked: tuple[Any, MeasureLike | None]
) -> Callable[[Tensor], pd.DataFrame] | None:
    """What takes the effects of some training rows by the moments of their class apart by columns; None: nobody can.

    Args:
        problem: the classifier.
        reduced: what is left of it without rows.
        scores: the effects.
        asked: the test row and the measure.
    """
    gradient = problem.test_gradients(*asked)
    if reduced.parts(torch.arange(1), gradient) is None:
        return None

    def parts(rows: Tensor) -> pd.DataFrame:
        found = reduced.parts(rows, gradient)
        assert found is not None
        return _with_bend(problem, found, scores.effect()[0][rows], SHARE)

    return parts


def _with_bend(problem: Objective, found: Tensor, effects: Tensor, *others: str) -> pd.DataFrame:
    """Parts by columns as a table, a line for each training row, with what is left of its effect.

    Args:
        problem: whose columns.
        found: the parts of columns and of what is no column.
        effects: of the rows.
        others: what the last parts are called.
    """
    names = [feature_name(problem, j) for j in range(found.shape[1] - len(others))]
    bend = effects - found.sum(1)
    both = torch.cat([found, bend[:, None]], dim=1)
    return pd.DataFrame(both.numpy(), columns=[*names, *others, BEND])


def _split(
    influence: Answers, model: LinearModel, scores: Scores, test: Any, measure: MeasureLike | None
) -> Callable[[Tensor], pd.DataFrame]:
    """What takes the effects of some training rows apart by columns, a line for each."""
    gradient = model.test_gradients(test, measure)
    steps = None if scores.changes is None else influence.row_steps
    if scores.changes is None or steps is None:
        solved = influence.solve(gradient).value
        return lambda rows: pd.DataFrame(
            parts_of_effects(model, rows, solved).numpy(), columns=part_names(model)
        )
    changes, solved = scores.changes[0], model.n * steps.total.solve(gradient)

    def parts(rows: Tensor) -> pd.DataFrame:
        found, names = parts_of_effects(model, rows, solved, steps.pull[rows]), part_names(model)
        if steps.following is not None:
            others = steps.following.steps(rows) @ gradient.T
            found, names = torch.cat([found, others], dim=1), [*names, FOLLOWS]
        bend = changes[rows] - found.sum(1)
        return pd.DataFrame(torch.cat([found, bend[:, None]], dim=1).numpy(), columns=[*names, BEND])

    return parts
