"""What a command is asked: about one row, or about many together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from .options import Asking

if TYPE_CHECKING:
    from pathlib import Path

    from ..measures import MeasureLike
    from ..report import Page
    from ..tables.fitted_file import FittedFile
    from ..types import Batch

ITSELF = "The row is one of the training rows: the model has seen it, and it may stand among those that are listed."


@dataclass(frozen=True, eq=False)
class Question:
    """What a command is asked, whether about one row or about many.

    Attributes:
        fitted: The training file with its model, which has not seen rows that are held out.
        about: The row or the rows, in a few words.
        batch: The rows as a batch of the model's.
        measure: What is asked about; None stands for the loss.
        words: What is known of them before anything is removed, a sentence or two each.
        page: Makes a report, as `report.explained_row` does, where there can be one.
    """

    fitted: FittedFile
    about: str
    batch: Batch
    measure: MeasureLike | None
    words: tuple[str, ...]
    page: Callable[..., Page] | None = None


def question(
    fitted: FittedFile,
    row: str | None,
    test: Path | None,
    measure: Asking | None,
    by: str | None,
    seed: int = 0,
) -> Question:
    """What the options of a command ask: about one row, or one number of many.

    Args:
        fitted: The training file with its model.
        row: The row (or id) of one of them.
        test: The file with the rows; without it many are held out of the training.
        measure: What is asked about.
        by: A column that makes groups of many rows.
        seed: The seed of the draw of those that are held out.

    Raises:
        FileError: Neither one row nor many are asked about, or both.
    """
    from ..tables.asked import asked_about
    from ..tables.asked_sets import asked_together
    from ..tables.reading import FileError

    together = None if measure is None else measure.together
    several = ", ".join(name.value for name in Asking if name.together is not None)
    if together is None and by is not None:
        raise FileError(
            f"--by compares groups of rows by one number of each: give --measure, one of {several}"
        )
    if together is None and row is None:
        raise FileError(f"--row is needed, or a --measure of many rows: one of {several}")
    if together is not None and row is not None:
        raise FileError(f"{together.name} is one number of many rows: leave --row out")
    if together is not None:
        many = asked_together(fitted, together, test, by=by, seed=seed)
        page = partial(_page, "explained_rows", many)
        return Question(many.fitted, f"{many.count:,} rows", many.batch, many.measure, many.words, page)
    assert row is not None
    one = asked_about(fitted, row, test, Asking.of(measure, fitted))
    itself = ITSELF if test is None and one.raw.name in fitted.raw.index else ""
    words = tuple(filter(None, (str(one.said), itself, one.unit)))
    return Question(
        fitted, f"row {row}", one.batch, one.measure, words, partial(_page, "explained_row", fitted, one)
    )


def _page(kind: str, *asked: Any, **options: Any) -> Page:
    """A report; what draws it is slow to load."""
    from .. import report

    return getattr(report, kind)(*asked, **options)
