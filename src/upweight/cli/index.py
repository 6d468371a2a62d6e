"""The command that makes an index of gradients of a user's file, and what `explain --index` answers from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from ..runtime.terminal import give
from .questions import asks

if TYPE_CHECKING:
    import pandas as pd

    from ..tables.fitted_file import FittedFile
    from .asked import Question


@asks()
def index(
    fitted: FittedFile,
    index: Annotated[
        Path,
        typer.Option(help="The folder to write; one that was cut off goes on from there.", file_okay=False),
    ],
    error: Annotated[
        float | None,
        typer.Option(
            help="The relative error of a question that is aimed at; otherwise 0.01, and 0 of linear models.",
            min=0,
            max=0.99,
        ),
    ] = None,
    bytes: Annotated[
        int | None, typer.Option("--bytes", help="In its place, the most that an example may take.", min=1)
    ] = None,
) -> None:
    """Gradients of all training rows in a folder: `explain --index` answers from it without reading the rows again."""
    from .. import EKFAC, GradientIndex, Influence
    from ..influence.index_writing import indexable

    problem, curvature = fitted.model.influence.problem, fitted.model.influence.settings.curvature
    if curvature is None:
        raise ValueError(
            "an index is of one set of weights, and this model is answered through its training: ask without --index"
        )
    known = curvature if indexable(curvature) else EKFAC(problem, curvature.damping)
    influence = Influence(problem, curvature=known)
    if error is None and bytes is None and problem.linear is not None:
        error = 0.0  # rows are short
    made = GradientIndex.build(influence, index, error=error, bytes_per_example=bytes)
    tell(
        f"{len(made):,} rows, {made.bytes_per_example:,} bytes each; the worst of the questions that were tried is off "
        f"by {made.error:.1e}",
        always=True,
    )
    give(f"{index}\n")


def from_index(asked: Question, folder: Path, k: int) -> pd.DataFrame:
    """The strongest rows of a question by an index, as `explain` shows them; what is known of them is said.

    Args:
        asked: about one row.
        folder: of the index.
        k: rows of each sign.
    """
    import pandas as pd

    from .. import GradientIndex

    problem = asked.fitted.model.influence.problem
    scores = GradientIndex.open(folder, problem).on_loss(asked.batch, measure=asked.measure, top=k)[0]
    for line in (*asked.words, scores.sign, scores.prediction, *scores.remarks):
        tell(line, always=True)
    sides = zip((scores.helpful(k), scores.harmful(k).iloc[::-1]), scores.roles, strict=True)
    both = pd.concat([table.assign(role=role) for table, role in sides])
    return both[["role", *[name for name in both if name not in ("role", "influence")]]]
