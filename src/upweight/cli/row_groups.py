"""Commands about many rows at once: groups of training rows that drive errors, and rows that could be gone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from .options import Format_, K, Out, Test
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile


@asks()
def mismatch(
    fitted: FittedFile,
    by: Annotated[str, typer.Option(help="The column whose values make the groups.", show_default=False)],
    test: Test = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only rows asked about of which this holds, as pandas queries say it: \"age == '[0-10)'\"."
        ),
    ] = None,
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which group of training rows drives the errors on a slice of the test data."""
    from .. import uses

    groups = fitted.column(by)
    found = uses.mismatch(fitted.model.influence, fitted.batch(test, where=where), by=groups)
    tell(f"Columns responsible in group {found.groups.index[0]!r}:\n{found.features.to_string(index=False)}")
    title = "Change of the slice's mean loss if a group were removed (negative = it harms)"
    show(found.groups.rename_axis(by).head(k), format, out, title)


@asks()
def remove(
    fitted: FittedFile,
    where: Annotated[
        str,
        typer.Option(
            help="The rows to remove, as pandas queries say it: \"age == '[0-10)'\".", show_default=False
        ),
    ],
    row: Annotated[
        str | None, typer.Option(help="The row (or id) asked about; otherwise all, in the mean.")
    ] = None,
    test: Test = None,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """What if these rows were gone: the predicted change of the loss, before anything is retrained."""
    import torch

    gone = fitted.rows(where)
    found = fitted.model.influence.of_removal(
        {where: torch.tensor(gone)}, fitted.batch(test, row=row)
    ).to_frame()
    tell(f"{len(gone):,} of {len(fitted.raw):,} training rows removed; positive = the loss would rise.")
    numbers = found.drop(columns=["test row"]).groupby("group", sort=False).mean()
    show(numbers, format, out, "Predicted change of the mean loss")
