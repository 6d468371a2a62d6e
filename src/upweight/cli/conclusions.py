"""The command about conclusions: how many rows would have to go before a coefficient says something else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from ..runtime.whole_files import whole
from .options import Format_, Out
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile

COLUMNS = (
    "found: so many go and it changes, as a refit without them confirmed; certified: no set of so many or fewer "
    "changes it, whichever they are, which is a proof; first order: the count that sums of single influences give, "
    "which nothing confirms."
)
"""What stands in the columns."""
Cluster = Annotated[
    str | None, typer.Option(help="The column whose values go together: patients, villages, firms.")
]
Level = Annotated[float, typer.Option(help="The level of significance.", min=0.0001, max=0.9999)]


@asks(without=("model", "booster", "trust", "problem"), plain=True)
def robustness(
    fitted: FittedFile,
    coef: Annotated[
        list[str],
        typer.Option(
            help='A column whose coefficient it is, as "age" or "town = north"; of several give it again.',
            show_default=False,
        ),
    ],
    cluster: Cluster = None,
    event: Annotated[
        str | None,
        typer.Option(
            help="The column with 1 for rows whose target is the time of an event and 0 for censored ones: Cox's model."
        ),
    ] = None,
    level: Level = 0.05,
    latex: Annotated[
        Path | None, typer.Option(help="Write the table for a paper to this file too.", dir_okay=False)
    ] = None,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How many rows would have to go before a coefficient changes its sign or its significance, and a proof for fewer.

    Least squares, or logistic regression for two classes, or with --event Cox's model, of the columns as they are and
    without a penalty. found: the rows whose removal does it, by a search that a refit confirms. certified: no set of so
    many rows or fewer does it, which is a proof (of Cox's model often of single rows alone, by refits). first order:
    the count that sums of single influences give, not refitted.
    """
    from ..tables.cox_regression import cox_model
    from ..tables.robust_conclusions import conclusions_of

    model = fitted.model
    if event is not None:
        assert fitted.table is not None
        model = cox_model(model, fitted.table, event)
    found = conclusions_of(model, fitted.raw, coef, level, cluster)
    tell("\n".join([*found.words, COLUMNS]), always=True)
    if latex is not None:
        with whole(latex) as part:
            part.write_text(found.table.to_latex(), encoding="utf-8")
    frame = found.table.to_frame().drop(columns=["std err", "std err without"])
    frame = frame.droplevel("coefficient") if len(coef) == 1 else frame
    one = next(iter(found.table.answers.values()))
    whose = "coefficient" + "s" * (len(coef) > 1)
    show(frame, format, out, f"The {whose} of {', '.join(coef)}: {one.unit}s to remove, of {one.units:,}")
