"""How robust conclusions about coefficients are, as a part of a report or as a report of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from ..tables.fitted_file import FittedFile
from ..tables.plain_regression import plain_model
from ..tables.reading import FileError
from ..tables.robust_conclusions import Conclusions, conclusions_of
from .page import written


@dataclass(frozen=True, eq=False)
class RobustPart:
    """What a report says of conclusions about coefficients.

    Attributes:
        about: Which coefficients.
        regression: What was fitted, in a sentence or two.
        unit: What is removed: row or group.
        heads: The headings of the table.
        lines: Its cells, as they are shown.
        notes: What was found and what limits the proofs, a sentence each.
    """

    about: str
    regression: str
    unit: str
    heads: Sequence[str]
    lines: Sequence[Sequence[str]]
    notes: Sequence[str]

    @classmethod
    def of(cls, found: Conclusions) -> RobustPart:
        """The part about some answers."""
        answers = found.table.answers
        frame = found.table.to_frame().reset_index()
        lines = [[_shown(cell) for cell in line] for line in frame.astype(object).to_numpy()]
        unit = next(iter(answers.values())).unit
        about = ", ".join(dict.fromkeys(name for name, _ in answers))
        regression = " ".join(found.regression)
        notes = [line for line in found.words if line not in found.regression]
        return cls(about, regression, unit, list(frame.columns), lines, notes)


def robust_part(
    fitted: FittedFile, coefficients: Sequence[str], level: float, cluster: str | None
) -> RobustPart:
    """The part about coefficients of a plain regression of a file.

    Args:
        fitted: The file.
        coefficients: Their names.
        level: Of significance.
        cluster: The column whose values go together, or None.

    Raises:
        FileError: The columns have no such regression, or a function of the user makes the model.
        ValueError: There is no such coefficient, or columns are collinear.
    """
    if fitted.table is None:
        raise FileError("--coef is about a regression of the file's columns: leave --problem out")
    model, rows = plain_model(fitted.table)
    return RobustPart.of(conclusions_of(model, fitted.raw.loc[rows], coefficients, level, cluster))


def write_conclusions(path: str | Path, part: RobustPart, fitted: FittedFile) -> Path:
    """A report of conclusions alone is written to `path`, which is returned.

    Args:
        path: The HTML file.
        part: What it says.
        fitted: The file that it is about.
    """
    settings = {
        "training data": f"{fitted.path.name}, {len(fitted.raw):,} rows, target {fitted.target}",
        "model": part.regression,
        "upweight": version("upweight"),
    }
    title = f"How robust are the conclusions about {part.about}?"
    return written(path, "report/base.html.j2", title=title, robust=part, settings=settings)


def _shown(value: object) -> str:
    """A cell as it is shown: numbers with four digits, nothing for what is missing."""
    if pd.isna(value):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
