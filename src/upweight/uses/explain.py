"""Why did the model say this: the training examples, and in each of them the columns, that are responsible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from ..influence.influence import Influence
from ..influence.scores import Scores
from ..measures import MeasureLike
from ..objective import LinearModel
from ..runtime.notebook import as_html
from ..types import Tensor
from .labels import classifier, decided, in_words, label_names

COLUMNS = 3
"""Columns of X that are named for each training row."""


@dataclass(frozen=True, eq=False)
class Explanation:
    """The training rows responsible for one prediction, as `explain` found them.

    `helpful` and `harmful` have a line per training row: influence, predicted effect of its removal (positive = the
    measure would rise), its label, and for linear models the columns x_j whose shares x_j I_pert,j of the influence are
    the largest. `prediction` and `label` are the model's and the given class of the test row, for linear classifiers.
    """

    scores: Scores
    helpful: pd.DataFrame
    harmful: pd.DataFrame
    prediction: Any = None
    label: Any = None
    relative: bool = False

    @property
    def question(self) -> str:
        """What is explained, in a sentence or two: the prediction beside its label, and how the rows are ranked."""
        ranking = "effect relative to the row's own pull (relative influence)" if self.relative else "effect"
        said = (
            ""
            if self.prediction is None
            else f"The model says {self.prediction!r}, the label is {self.label!r}. "
        )
        return f"{said}Training rows by {ranking} on the {self.scores.measure}."

    def __repr__(self) -> str:
        tables = f"Helpful\n{self.helpful.to_string()}\nHarmful\n{self.harmful.to_string()}"
        return "\n".join([self.question, *self._words(), tables])

    def _words(self) -> list[str]:
        return [self.scores.sign, *self.scores.remarks]

    def _repr_html_(self) -> str:
        return as_html(self.question, *self._words(), "Helpful", self.helpful, "Harmful", self.harmful)


def explain(
    influence: Influence,
    test: Any,
    *,
    k: int = 10,
    relative: bool = False,
    measure: MeasureLike | None = None,
) -> Explanation:
    """The k most helpful and the k most harmful training rows of one prediction, and the columns responsible.

    It costs what `on_loss` costs; relative influence takes the self-influence of all training rows as well.

    Args:
        influence: of the model.
        test: one test example, as the problem takes batches.
        k: rows of each kind, >= 1.
        relative: ranks by I(z, z_test) / sqrt(self-influence of z), so that rows that move every prediction (outliers)
            do not fill every list (RelatIF: Barshan et al., 2020).
        measure: what is asked about, default the loss.

    Raises:
        ValueError: for more than one test row or k < 1.

    >>> import torch
    >>> from upweight import LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 4.0])
    >>> influence = Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1))
    >>> explain(influence, (X[:1], y[:1]), k=1).helpful["because of"].str.startswith("column 0").tolist()
    [True]
    """
    if k < 1:
        raise ValueError(f"k must be >= 1, got {k}")
    problem, model = influence.problem, influence.problem.linear
    if model is not None:
        test = model.prepared(test)
    scores = influence.on_loss(test, measure=measure)
    if len(scores) != 1:
        raise ValueError(f"explain answers for one test row, got {len(scores)}; pass them one by one")
    weight = torch.ones(problem.n, dtype=torch.float64)
    if relative:
        weight = influence.own.values[0].abs().clamp(min=1e-300).rsqrt()
    order = (scores.effect()[0] * weight).sort(descending=True).indices
    k = min(k, problem.n)
    tables, solved = [], None
    if model is not None:
        solved = influence.solve(model.test_gradients(test, measure)).value
    for rows in (order[:k], order.flip(0)[:k]):
        table = scores.table(rows)
        if relative:
            table.insert(1, "relative influence", (scores.values[0] * weight)[rows].numpy())
        if model is not None and solved is not None:
            table["label"] = label_names(model, model.y[rows])
            table["because of"] = _because(model, rows, solved, scores.values[0, rows])
        tables.append(table)
    prediction = label = None
    if (judge := classifier(problem)) is not None:
        prediction = label_names(judge, decided(judge.outputs(test[0])))[0]
        label = label_names(judge, judge.encode(test[1], 1))[0]
    return Explanation(scores, tables[0], tables[1], prediction=prediction, label=label, relative=relative)


def _because(problem: LinearModel, rows: Tensor, solved: Tensor, values: Tensor) -> list[str]:
    """x_j I_pert,j / I of each row (Sec. 5.3), its largest columns in words."""
    batch = problem.train_batch(rows)
    x = batch[0].block(slice(None), torch.float64).dense()
    shares = -problem.input_gradients(batch, solved)[0] * x * (problem.weights[rows] / values)[:, None]
    return [in_words(problem, row.nan_to_num(0.0), COLUMNS) for row in shares]
