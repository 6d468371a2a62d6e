"""Commands about the prediction of one row: explain it, check the explanation, write a report of both."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from .. import uses
from ..errors import InfluenceError
from ..runtime.progress import tell
from ..tables.fitted_file import FittedFile
from ..validation.verify import ROUGH, Verification
from ..validation.verify import verify as compared_with_retraining
from .options import FailOver, Format_, K, Out, Relative, Row, Test
from .questions import asks
from .show import show


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
    batch = fitted.batch(test, row=row)
    found = uses.explain(fitted.model.influence, batch, k=k, relative=relative)
    helpful, harmful = found.helpful.assign(role="helpful"), found.harmful.assign(role="harmful")
    both = pd.concat([helpful, harmful.iloc[::-1]])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    tell("\n".join([found.question, found.scores.sign, *found.scores.remarks]), always=True)
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
    fail_over: FailOver = ROUGH,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Whether an explanation holds: retrain without single rows, and compare with what was predicted."""
    batch, model = fitted.batch(test, row=row), fitted.model
    found = compared_with_retraining(model.influence, batch, k=k, seed=seed, refit=model.refit)
    if picture is not None:
        from .. import plots

        plots.verification(found).savefig(picture, dpi=160)
    tell(f"{found}\n{found.judgement}.", always=True)
    show(found.table, format, out, f"Change of the loss of row {row} without single training rows")
    confirmed(found, fail_over)


def confirmed(found: Verification, most: float) -> None:
    """Nothing happens where retraining confirms predictions to the share `most`; else InfluenceError says why not."""
    if reason := found.shortcoming(most):
        raise InfluenceError(reason)


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
    fail_over: FailOver = ROUGH,
) -> None:
    """One HTML file that explains a prediction: the rows as they are, what is responsible in them, and the proof."""
    from ..report import explained_row, write

    page = explained_row(fitted, row, test, k=k, checked=checked, relative=relative)
    write(out, page)
    typer.echo(str(out))
    confirmed(page.verified, fail_over)
