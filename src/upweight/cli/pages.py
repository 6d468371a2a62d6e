"""An explanation of a prediction about a user's file, as a page that can be sent on."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from ..report import Example, write
from ..runtime.progress import tell
from ..tables.columns import inside
from ..tables.default_models import photograph
from ..tables.fitted_file import Asked
from ..uses.explain import explain
from ..validation.verify import verify

CELLS = 12
"""Cells of a row that are shown: those responsible first."""
SIDE = 160
"""Pixels of a photograph's side."""


def explanation(
    asked: Asked, test: Path | None, row: str, out: Path, *, k: int, checked: int, relative: bool
) -> None:
    """Explain, verify by retraining, and write the page."""
    raw, batch = asked.looked_up(test, row), asked.batch(test, row)
    found = explain(asked.influence, batch, k=k, relative=relative)
    tell(f"verifying: training again without each of the {checked} top and {checked} random rows")
    v = verify(asked.influence, batch, k=checked, refit=asked.refit)
    said = (
        ""
        if found.prediction is None
        else f" The model says {found.prediction!r}; the label is {found.label!r}."
    )
    drift = found.scores.drift
    place = asked.file.parent if test is None else test.resolve().parent
    causes = [
        line.get("because of", "")
        for line in [*found.helpful.to_dict("records"), *found.harmful.to_dict("records")]
    ]
    write(
        out,
        title=f"Why does the model say this of row {row}?",
        question=f"Row {row} of {(test or asked.file).name}.{said} Which training rows are responsible?",
        test=example(asked, raw, row, str(raw[asked.target]), None, ", ".join(causes), place),
        helpful=list(_examples(asked, found.helpful)),
        harmful=list(_examples(asked, found.harmful)),
        verified=v,
        label=lambda name: str(asked.raw.loc[name, asked.target]),
        settings={
            "training data": f"{asked.file.name}, {len(asked.raw):,} rows, target {asked.target}",
            "model": asked.model,
            "columns": ", ".join(f"{name} ({kind})" for name, kind in asked.kinds.items()),
            "left out, or filled": "; ".join(asked.notes) or "nothing",
            "influence": "; ".join(asked.influence.settings.reasons),
            "held fixed": "; ".join(asked.influence.problem.terms.notes) or "nothing",
            "ranking": "relative to each row's own pull" if relative else "by effect",
            "upweight": version("upweight"),
        },
        certificate=[
            found.scores.verdict,
            f"Finishing the training would change the loss by {0.0 if drift is None else float(drift):+.1e}; effects "
            "smaller than that are not to be trusted.",
        ],
        sign=found.scores.sign,
    )


def _examples(asked: Asked, table: pd.DataFrame) -> Iterable[Example]:
    effect = next(name for name in table.columns if "effect" in name)
    for name, line in table.iterrows():
        label = str(asked.raw.loc[name, asked.target])
        yield example(
            asked,
            asked.raw.loc[name],
            name,
            label,
            float(line[effect]),
            line.get("because of", ""),
            asked.file.parent,
        )


def example(
    asked: Asked, raw: pd.Series, name: Any, label: str, effect: float | None, because: str, folder: Path
) -> Example:
    """A row as it is: its photograph, its texts, and the cells that are responsible before the others."""
    blamed = _blamed(because, asked.kinds)
    cells = [column for column, kind in asked.kinds.items() if kind in ("number", "category")]
    cells.sort(key=lambda column: column not in blamed)
    pictures = [column for column, kind in asked.kinds.items() if kind == "image"]
    return Example(
        id=name,
        label=label,
        effect=effect,
        image=photograph(str(inside(folder, str(raw[pictures[0]]))), SIDE) if pictures else None,
        texts={column: str(raw[column]) for column, kind in asked.kinds.items() if kind == "text"},
        cells={column: _cell(raw[column]) for column in cells[:CELLS]},
        highlight=blamed,
    )


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _blamed(because: str, kinds: Any) -> frozenset[str]:
    """Words and columns of "age = [0-10) 54%, money 12%": a name goes up to its last space."""
    found = set()
    for part in because.split(", "):
        name = part.rpartition(" ")[0].partition("__")[2] or part.rpartition(" ")[0]
        column = name.partition(" = ")[0].removeprefix("missingindicator_")
        found.add(column if column in kinds else name)
    return frozenset(found)
