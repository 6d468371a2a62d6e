"""The options that several commands have, each with its one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .show import Format

# -- how the training file is read, and which model it gets ----------------------------------------------------------

File = Annotated[
    Path,
    typer.Argument(
        help="Training data: CSV, TSV, Parquet or Arrow, one example per row.", show_default=False
    ),
]
Target = Annotated[str, typer.Option(help="The column that the model predicts.", show_default=False)]
Model = Annotated[
    Path | None,
    typer.Option(
        help="A fitted scikit-learn model in a skops file; otherwise one is fitted.", show_default=False
    ),
]
Trust = Annotated[
    list[str] | None,
    typer.Option(help="A type that the skops file may use, besides those known to be safe."),
]
Problem = Annotated[
    str | None,
    typer.Option(
        help="MODULE:FUNCTION that makes a trained PyTorch model's Problem of the file's table; see the README.",
        show_default=False,
    ),
]
Text = Annotated[list[str] | None, typer.Option(help="A column that holds text.")]
Image = Annotated[list[str] | None, typer.Option(help="A column that holds paths of images.")]
Drop = Annotated[list[str] | None, typer.Option(help="A column that the model must not see.")]
Id = Annotated[
    str | None, typer.Option(help="The column that names the rows; otherwise they are counted from 0.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of a CSV or TSV file.")]

# -- what is asked about ---------------------------------------------------------------------------------------------

Row = Annotated[str, typer.Option(help="The row (or id) that is asked about.", show_default=False)]
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
Relative = Annotated[
    bool,
    typer.Option("--relative", help="Rank by effect relative to each row's own pull: outliers step back."),
]

Seed = Annotated[int, typer.Option(help="Seed of the draw of rows, where some are drawn.", min=0)]

# -- what is said -----------------------------------------------------------------------------------------------------

Quiet = Annotated[
    bool, typer.Option("--quiet", help="Say nothing but the answer and errors: no notes, warnings and bars.")
]

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
