"""The command that comes before the others: whether answers about a model can be trusted at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InfluenceError
from ..runtime.progress import tell
from .options import Format_, Out, Seed, Test
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile

DRAWN = 20
"""Rows that are asked about where none is named."""


@asks()
def trust(
    fitted: FittedFile,
    row: Annotated[
        str | None, typer.Option(help=f"The row (or id) asked about; otherwise {DRAWN} that are drawn.")
    ] = None,
    test: Test = None,
    seed: Seed = 0,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Whether answers about this model can be trusted: unfinished training, bad solves, much hanging on the damping.

    The exit code is 1 where they cannot. Whether retraining agrees is what `verify` says.
    """
    import pandas as pd

    from .. import uses

    batch = fitted.batch(test, row=row) if row is not None else fitted.drawn(DRAWN, test, seed=seed)
    found = uses.trust(fitted.model.influence, batch)
    if len(found.sensitivity):
        tell(f"Scores at other dampings:\n{found.sensitivity.to_string()}", always=True)
    verdict = pd.Index([found.level] * len(found.reasons), name="verdict")
    table = pd.DataFrame({"reason": found.reasons}, index=verdict)
    show(table, format, out, "Can the answers be trusted?", widest=1000)
    if found.level == "do not trust":
        raise InfluenceError(f"do not trust answers about this model: {found.reasons[0]}")
