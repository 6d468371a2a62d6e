"""Examples as people see them: a row of a file with its photograph, its texts and its cells."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..tables.default_models import photograph
from ..tables.fitted_file import FittedFile
from ..tables.reading import inside

CELLS = 12
"""Cells of a row that are shown: those responsible first."""
SIDE = 160
"""Pixels of a photograph's side."""


@dataclass(frozen=True, eq=False)
class Example:
    """An example as a page shows it.

    Attributes:
        id: The name of its row.
        label: Its label, in words.
        effect: The predicted change of the loss without it; None for the example that is asked about.
        image: Its picture, grey (h, w) or coloured (h, w, 3), 0..255.
        texts: Its texts, by the names of their columns.
        cells: Its other cells, by the names of their columns.
        highlight: Words of the texts and names of columns that are responsible.
    """

    id: Hashable
    label: str
    effect: float | None = None
    image: np.ndarray | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, str] = field(default_factory=dict)
    highlight: frozenset[str] = frozenset()


def file_example(
    fitted: FittedFile,
    row: pd.Series,
    *,
    label: str,
    effect: float | None = None,
    because: str = "",
    folder: Path | None = None,
) -> Example:
    """A row of a file as it is: its photograph, its texts, and the cells that are responsible before the others.

    Args:
        fitted: The file, with a model that knows which columns are what.
        row: The row as it stands in its file; its name is the example's.
        label: Its label, in words.
        effect: The predicted change of the loss without it; None for the example that is asked about.
        because: The columns and words responsible, as `explain` writes them: "age = [0-10) 54%, money 12%".
        folder: Where its image is; otherwise beside the training file.
    """
    kinds = fitted.model.kinds
    blamed = _blamed(because, kinds)
    cells = [column for column, kind in kinds.items() if kind in ("number", "category")]
    cells.sort(key=lambda column: column not in blamed)
    image = None
    for column in [column for column, kind in kinds.items() if kind == "image"][:1]:
        image = photograph(str(inside(folder or fitted.folder(), str(row[column]))), SIDE)
    return Example(
        id=row.name,
        label=label,
        effect=effect,
        image=image,
        texts={column: str(row[column]) for column, kind in kinds.items() if kind == "text"},
        cells={column: _cell(row[column]) for column in cells[:CELLS]},
        highlight=blamed,
    )


def training_examples(fitted: FittedFile, explained: pd.DataFrame) -> Iterable[Example]:
    """The training rows of an explanation's table as examples, in the table's order, with effects and causes."""
    effect = next(name for name in explained.columns if "effect" in name)
    for name, line in explained.iterrows():
        yield file_example(
            fitted,
            fitted.raw.loc[name],
            label=str(fitted.raw.loc[name, fitted.target]),
            effect=float(line[effect]),
            because=line.get("because of", ""),
        )


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _blamed(because: str, columns: Collection[str]) -> frozenset[str]:
    """Words and columns of "age = [0-10) 54%, money 12%": a name goes up to its last space."""
    found = set()
    for part in because.split(", "):
        name = part.rpartition(" ")[0].partition("__")[2] or part.rpartition(" ")[0]
        column = name.partition(" = ")[0].removeprefix("missingindicator_")
        found.add(column if column in columns else name)
    return frozenset(found)
