"""Examples as people see them: a row of a file with its photograph, its texts and its cells."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..influence.score_tables import effects, left_to_move
from ..tables.default_models import origin, photograph
from ..tables.fitted_file import FittedFile
from ..tables.kinds import Kind
from ..tables.reading import inside
from ..uses.parts import NAMED, NO_COLUMN, in_words

CELLS = 200
"""Cells of a row that a page holds: those responsible first."""
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
        because: The largest parts of the effect by columns, in its unit, and the rest of them; "" where there are none.
        hidden: How many cells more the row has, which are not shown.
        doubt: Why the effect means little, in a few words; "" where nothing is known against it.
        stable: How often it stays among the strongest when training rows are resampled, in words; "" where not known.
    """

    id: Hashable
    label: str
    effect: float | None = None
    image: np.ndarray | None = None
    texts: Mapping[str, str] = field(default_factory=dict)
    cells: Mapping[str, str] = field(default_factory=dict)
    highlight: frozenset[str] = frozenset()
    because: str = ""
    hidden: int = 0
    doubt: str = ""
    stable: str = ""


def file_example(
    fitted: FittedFile,
    row: pd.Series,
    *,
    label: str,
    effect: float | None = None,
    parts: pd.Series | None = None,
    folder: Path | None = None,
    left: float = 0.0,
) -> Example:
    """A row of a file as it is: its photograph, its texts, and the cells that are responsible before the others.

    Args:
        fitted: The file, with a model that knows which columns are what.
        row: The row as it stands in its file; its name is the example's.
        label: Its label, in words.
        effect: The predicted change of the loss without it; None for the example that is asked about.
        parts: The parts of the effect by columns of the model, as `Explanation.parts` has them.
        folder: Where its image is; otherwise beside the training file.
        left: What was left to move after the Newton steps behind the effect, a share; NaN and 0 say nothing.
    """
    kinds = fitted.model.kinds
    blamed = _blamed(parts, kinds)
    cells = [column for column, kind in kinds.items() if kind not in ("text", "image")]
    cells.sort(key=lambda column: column not in blamed)
    image = None
    for column in [column for column, kind in kinds.items() if kind == "image"][:1]:
        image = photograph(str(inside(folder or fitted.folder(), str(row[column]))), SIDE)
    return Example(
        id=row.name,
        label=label,
        effect=effect,
        image=image,
        texts={column: _cell(row[column]) for column, kind in kinds.items() if kind == "text"},
        cells={column: _cell(row[column]) for column in cells[:CELLS]},
        hidden=len(cells[CELLS:]),
        highlight=blamed,
        because="" if parts is None or effect is None else in_words(parts),
        doubt=f"not settled: {left:.0%} of the move is left" if left > 0 else "",
    )


def training_examples(
    fitted: FittedFile, explained: pd.DataFrame, parts: pd.DataFrame | None = None
) -> Iterable[Example]:
    """The training rows of an explanation's table as examples, in the table's order, with effects and causes.

    Args:
        fitted: The file, with its model.
        explained: The table: `helpful` or `harmful`.
        parts: The parts of the effects, a line for each of the table; None of models that have none.
    """
    found, left = effects(explained), left_to_move(explained)
    often = [name for name in explained.columns if name.startswith("stays in top")]
    for i, name in enumerate(explained.index):
        stays = [f"{column.removesuffix(' (%)')}: {explained[column].iloc[i]}%" for column in often]
        example = file_example(
            fitted,
            fitted.raw.loc[name],
            label=_cell(fitted.raw.loc[name, fitted.target]),
            effect=float(found.iloc[i]),
            parts=None if parts is None else parts.iloc[i],
            left=float(left.iloc[i]),
        )
        yield replace(example, stable="".join(stays))


def _cell(value: object) -> str:
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _blamed(parts: pd.Series | None, kinds: Mapping[str, Kind]) -> frozenset[str]:
    """The columns of the file that the largest parts go through, and the words of its texts."""
    if parts is None:
        return frozenset()
    sizes = parts.drop([*NO_COLUMN], errors="ignore").abs()
    found = [origin(str(name), kinds) for name in sizes[sizes > 0].nlargest(NAMED).index]
    return frozenset(word if kinds.get(column) == "text" else column for column, word in found)
