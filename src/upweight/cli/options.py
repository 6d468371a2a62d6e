"""The options that several commands have, each with its one help text."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .show import Format

if TYPE_CHECKING:
    from ..measures import MeasureLike, Overall
    from ..tables.fitted_file import FittedFile

# -- how the training file is read, and which model it gets ----------------------------------------------------------

File = Annotated[
    Path,
    typer.Argument(
        help="Training data, one example per row: CSV and its like, .xlsx, .ods, JSON, Parquet, Feather, ORC, SQLite; "
        "- is standard input.",
        show_default=False,
    ),
]
Target = Annotated[str, typer.Option(help="The column that the model predicts.", show_default=False)]
Model = Annotated[
    Path | None,
    typer.Option(
        help="A fitted scikit-learn model in a skops file, or trees in a file of XGBoost (.ubj, .json), LightGBM "
        "(.txt) or CatBoost (.cbm); otherwise one is fitted.",
        show_default=False,
    ),
]


class Library(str, Enum):
    """The libraries of boosted trees that fit a model of a table."""

    hist = "hist"
    xgboost = "xgboost"
    lightgbm = "lightgbm"
    catboost = "catboost"


Booster = Annotated[
    Library | None,
    typer.Option(
        help="Fit boosted trees of this library (hist is scikit-learn's); otherwise the model is linear.",
        show_default=False,
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="A type that the skops file may use, besides those known to be safe."),
]
Problem = Annotated[
    str | None,
    typer.Option(
        help="MODULE:FUNCTION that makes a trained PyTorch model's Problem of the file's table; see docs/files.md.",
        show_default=False,
    ),
]
Text = Annotated[list[str] | None, typer.Option(help="A column that holds text.")]
Image = Annotated[list[str] | None, typer.Option(help="A column that holds paths of images.")]
Category = Annotated[
    list[str] | None,
    typer.Option(help="A column that holds categories, also where they are coded as numbers."),
]
Number = Annotated[
    list[str] | None, typer.Option(help="A column that holds numbers; what is none is missing.")
]
Date = Annotated[list[str] | None, typer.Option(help="A column that holds dates; what is none is missing.")]
Drop = Annotated[list[str] | None, typer.Option(help="A column that the model must not see.")]
Id = Annotated[
    str | None, typer.Option(help="The column that names the rows; otherwise they are counted from 0.")
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", help="Leave out rows without a target instead of refusing them.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of a text file.")]
Separator = Annotated[
    str | None,
    typer.Option(help="What stands between the cells of a text file; otherwise that is told by its text."),
]
Sheet = Annotated[
    str | None,
    typer.Option(
        help="The sheet of a spreadsheet, or the table of a database; otherwise the first, or only one."
    ),
]

# -- what is asked about ---------------------------------------------------------------------------------------------

Row = Annotated[
    str | None,
    typer.Option(
        help="The row (or id) that is asked about, unless --measure is of many.", show_default=False
    ),
]
Test = Annotated[
    Path | None, typer.Option(help="File with the rows that are asked about; otherwise the training data.")
]
TestOrHeld = Annotated[
    Path | None,
    typer.Option(
        "--test",
        help="File with the rows that are asked about; otherwise a fifth of the rows is held out of the training.",
    ),
]


class Asking(str, Enum):
    """What is asked about: the loss, a value, how strongly a model speaks for a class, or one number of many rows."""

    loss = "loss"
    prediction = "prediction"
    probability = "probability"
    logit = "logit"
    margin = "margin"
    auroc = "auroc"
    average_precision = "average_precision"
    accuracy = "accuracy"
    brier = "brier"
    calibration_error = "calibration_error"
    selection_rate = "selection_rate"
    true_positive_rate = "true_positive_rate"
    false_positive_rate = "false_positive_rate"

    @classmethod
    def of(cls, asked: Asking | None, fitted: FittedFile) -> MeasureLike | None:
        """The measure that is meant, None for the loss; what a file's target suggests where nothing is said."""
        from .. import measures
        from ..tables.asked import default_measure

        if asked is None:
            return default_measure(fitted)
        return None if asked is cls.loss else getattr(measures, asked.value)

    @property
    def together(self) -> Overall | None:
        """The measure where it is one number of many rows together; None where it is one of each row."""
        from .. import measures

        of_each = (Asking.loss, Asking.prediction, Asking.probability, Asking.logit, Asking.margin)
        return None if self in of_each else getattr(measures, self.value)


Measure = Annotated[
    Asking | None,
    typer.Option(
        help="What is asked about: otherwise the loss of a class, and the prediction of a quantity, in its own unit. "
        "From auroc on it is one number of many rows: --row is left out, and --by makes groups of them.",
        show_default=False,
    ),
]
By = Annotated[
    str | None,
    typer.Option(
        help="A column of the rows asked about: the gap of --measure between the groups that its values make.",
        show_default=False,
    ),
]
Relative = Annotated[
    bool,
    typer.Option("--relative", help="Rank by effect relative to each row's own pull: outliers step back."),
]

FirstOrder = Annotated[
    bool,
    typer.Option(
        "--first-order",
        help="Effects of first order (Eq. 2), where a linear model's are those of Newton steps.",
    ),
]

Index = Annotated[
    Path | None,
    typer.Option(
        help="Answer from this folder, which the command index wrote: of first order, without reading all rows again.",
        file_okay=False,
        show_default=False,
    ),
]

Seed = Annotated[int, typer.Option(help="Seed of the draw of rows, where some are drawn.", min=0)]

# -- what is said -----------------------------------------------------------------------------------------------------

Quiet = Annotated[
    bool, typer.Option("--quiet", help="Say nothing but the answer and errors: no notes, warnings and bars.")
]

ROUGH = 0.5
"""The relative error up to which predictions hold roughly, as `validation.verify` has it, which is slow to load."""
FailOver = Annotated[
    float,
    typer.Option(
        help="End with exit code 1 if predictions are off by more than this share of the changes by retraining.",
        min=0,
    ),
]

# -- how it is answered ----------------------------------------------------------------------------------------------

K = Annotated[int, typer.Option("--k", help="Rows to show.", min=1)]
Format_ = Annotated[
    Format | None,
    typer.Option("--format", help="Otherwise by the suffix of --out: a table on a terminal, CSV in a pipe."),
]
Out = Annotated[Path | None, typer.Option(help="File to write to.", dir_okay=False)]
