"""Commands about the prediction of one row: explain it, check the explanation, write a report of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import tell
from .options import Format_, K, Out, Relative, Row, Test
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile


@asks()
def explain(
    fitted: FittedFile,
    row: Row,
    test: Test = None,
    relative: Relative = False,
    k: K = 10,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which training rows made the model say this of a row, and which columns of them."""
    import pandas as pd

    from .. import uses

    batch = fitted.batch(test, row=row)
    found = uses.explain(fitted.model.influence, batch, k=k, relative=relative)
    helpful, harmful = found.helpful.assign(role="helpful"), found.harmful.assign(role="harmful")
    both = pd.concat([helpful, harmful.iloc[::-1]])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    tell(f"{found.question}\n{found.scores.sign}\n{found.scores.verdict}")
    show(both, format, out, f"Training rows responsible for row {row}")


@asks()
def verify(
    fitted: FittedFile,
    row: Row,
    test: Test = None,
    k: Annotated[
        int,
        typer.Option(
            "--k", help="Retrain without each of the k rows of largest effect and k random ones.", min=2
        ),
    ] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random control group.", min=0)] = 0,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of predicted against actual changes.", dir_okay=False)
    ] = None,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Whether an explanation holds: retrain without single rows, and compare with what was predicted."""
    from ..validation.verify import verify as compared_with_retraining

    batch, model = fitted.batch(test, row=row), fitted.model
    found = compared_with_retraining(model.influence, batch, k=k, seed=seed, refit=model.refit)
    if picture is not None:
        from .. import plots

        plots.verification(found).savefig(picture, dpi=160)
    tell(str(found))
    show(found.table, format, out, f"Change of the loss of row {row} without single training rows")


@asks()
def report(
    fitted: FittedFile,
    row: Row,
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)] = Path("report.html"),
    test: Test = None,
    relative: Relative = False,
    k: Annotated[int, typer.Option("--k", help="Helpful and harmful rows to show, each.", min=1)] = 10,
    checked: Annotated[
        int,
        typer.Option(
            help="Retrain without each of so many rows of largest effect, and as many random ones.", min=2
        ),
    ] = 20,
) -> None:
    """One HTML file that explains a prediction: the rows as they are, what is responsible in them, and the proof."""
    from ..report import explained_row, write

    write(out, explained_row(fitted, row, test, k=k, checked=checked, relative=relative))
    typer.echo(str(out))
