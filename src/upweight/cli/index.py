"""The command that makes an index of gradients of a user's file, and what `--index` of others answers from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from ..runtime.terminal import give
from .questions import asks

if TYPE_CHECKING:
    import pandas as pd

    from ..influence import GradientIndex
    from ..influence.removal import Removal
    from ..tables.fitted_file import FittedFile
    from ..types import Tensor
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
    """Gradients of all training rows in a folder: `explain --index` and `remove --index` answer from it alone."""
    from ..curvature import EKFAC
    from ..influence import GradientIndex, Influence
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


def opened(asked: Question, folder: Path) -> GradientIndex:
    """The index in a folder; raises FileError where one number of many rows is asked about, which it cannot answer."""
    from ..influence import GradientIndex
    from ..measures import as_measure
    from ..tables.reading import FileError

    measure = as_measure(asked.measure)
    if measure is not None and measure.single:
        raise FileError(
            "an index answers for each row, not for one number of many: leave --index or --measure out"
        )
    return GradientIndex.open(folder, asked.fitted.model.influence.problem)


def without(asked: Question, folder: Path, groups: dict[str, Tensor]) -> Removal:
    """The changes if sets of rows of the file were removed, by an index.

    Args:
        asked: about rows.
        folder: of the index.
        groups: the places of the rows of each set in the file.

    Raises:
        FileError: for an index of other rows, whose places would mean others.
    """
    from ..tables.reading import FileError

    found = opened(asked, folder)
    if not found.built_of(asked.fitted.model.influence.problem):
        raise FileError(
            f"{folder} is not an index of the rows of this file: make another one, or leave --index out"
        )
    return found.of_removal(groups, asked.batch, measure=asked.measure)


def from_index(asked: Question, folder: Path, k: int) -> pd.DataFrame:
    """The strongest rows of a question by an index, as `explain` shows them; what is known of them is said.

    Args:
        asked: about one row.
        folder: of the index.
        k: rows of each sign.
    """
    import pandas as pd

    scores = opened(asked, folder).on_loss(asked.batch, measure=asked.measure, top=k)[0]
    for line in (*asked.words, scores.sign, scores.prediction, *scores.remarks):
        tell(line, always=True)
    sides = zip((scores.helpful(k), scores.harmful(k).iloc[::-1]), scores.roles, strict=True)
    both = pd.concat([table.assign(role=role) for table, role in sides])
    return both[["role", *[name for name in both if name not in ("role", "influence")]]]
