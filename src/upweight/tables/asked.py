"""One row that is asked about: as it stands in its file, as a batch, and what the model says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ..measures import MeasureLike, name_of, prediction
from ..types import Batch
from ..uses.said import Said, said_of
from .fitted_file import FittedFile
from .reading import FileError


@dataclass(frozen=True, eq=False)
class Asked:
    """A row that is asked about, whether its label is known or not.

    Attributes:
        name: The row (or id), as the user wrote it.
        path: The file that it stands in.
        raw: The row as it stands there.
        batch: The row as a batch of the model's; where it has no class, with the one that the model predicts.
        said: What the model says of it, beside its own label.
        measure: What is asked about; None stands for the loss.
    """

    name: str
    path: Path
    raw: pd.Series
    batch: Batch
    said: Said
    measure: MeasureLike | None

    @property
    def unit(self) -> str:
        """What the unit of the effects is, in a sentence; nothing where nobody knows."""
        target, asked = self.said.unit, name_of(self.measure)
        if self.said.quantity:
            return {
                "prediction": f"Effects are in the unit of {target}.",
                "loss": f"The loss is half the squared error: effects are in the square of the unit of {target}.",
            }.get(asked, "")
        its = self.said.prediction if self.said.label is None else self.said.label
        if asked == "probability":
            return f"An effect of 0.01 is one percentage point of the probability of {its!r}."
        if asked == "loss" and self.said.probabilities is not None:
            return f"The loss is minus the natural logarithm of the probability of {its!r}."
        return ""


def default_measure(fitted: FittedFile) -> MeasureLike | None:
    """What is asked about by default: the loss of a class, and the prediction itself of a quantity, in its own unit."""
    return None if fitted.model.classifies else prediction


def asked_about(fitted: FittedFile, row: str, test: Path | None, measure: MeasureLike | None) -> Asked:
    """A row that is asked about, with what the model says of it.

    A row without a class (an empty cell, or no such column in its file) gets the class that the model predicts. The
    value of a row without one is not looked at, so that only the prediction can be asked about.

    Args:
        fitted: The training file with its model.
        row: The row (or id).
        test: The file that it is in; otherwise the training file.
        measure: What is asked about; None stands for the loss.

    Raises:
        FileError: There is no such row, or the loss is asked of a row without a value.
    """
    rows, target = fitted.one_row(row, test), fitted.target
    known = target in rows and bool(rows[target].notna().iloc[0])
    if not (known or fitted.model.classifies or measure is not None):
        raise FileError(
            f"row {row} has no {target}, so that its loss is not known: ask for --measure prediction"
        )

    def batch(targets: pd.Series) -> Batch:
        """The row with each of some targets; with a single one it keeps its name."""
        many = pd.concat([rows] * len(targets), ignore_index=len(targets) > 1)
        return fitted.model.batches(
            many.assign(**{target: targets.set_axis(many.index)}), fitted.folder(test)
        )

    answered = _of_class if fitted.model.classifies else _of_value
    asked, said = answered(fitted, batch, rows[target] if known else None)
    return Asked(row, (test or fitted.path), rows.iloc[0], asked, replace(said, unit=target), measure)


def _of_class(
    fitted: FittedFile, batch: Callable[[pd.Series], Batch], own: pd.Series | None
) -> tuple[Batch, Said]:
    """The batch of a row with its own class, or with that of the least loss: it is the one that a model predicts.

    Of a network, too, nothing more need be known for that than its loss.
    """
    problem, classes = fitted.model.influence.problem, fitted.raw[fitted.target].drop_duplicates()
    if own is not None and problem.output_model is not None:
        asked = batch(own)
        return asked, said_of(problem, asked)
    best = int(problem.evaluate(batch(classes)).argmin())
    asked = batch(classes.iloc[[best]] if own is None else own)
    said = said_of(problem, asked)
    if problem.output_model is None:
        said = replace(
            said, prediction=classes.tolist()[best], label=None if own is None else own.tolist()[0]
        )
    return asked, said if own is not None else replace(said, label=None)


def _of_value(
    fitted: FittedFile, batch: Callable[[pd.Series], Batch], own: pd.Series | None
) -> tuple[Batch, Said]:
    """The batch of a row with its own value, or with any: the prediction does not look at it."""
    problem = fitted.model.influence.problem
    asked = batch(fitted.raw[fitted.target].iloc[[0]] if own is None else own)
    said = said_of(problem, asked)
    if problem.output_model is None:
        output = float(problem.evaluate(asked, prediction)[0])
        said = replace(
            said, prediction=output, label=None if own is None else float(own.iloc[0]), quantity=True
        )
    return asked, said if own is not None else replace(said, label=None, loss=None)
