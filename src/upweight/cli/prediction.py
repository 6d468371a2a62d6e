"""Commands about the prediction of one row: explain it, check the explanation, write a report of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InfluenceError
from ..runtime.progress import tell
from ..runtime.terminal import give
from .options import ROUGH, Asking, FailOver, FirstOrder, Format_, K, Measure, Out, Relative, Row, Test
from .questions import asks
from .show import own_name, show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile
    from ..validation.verify import Verification

PARTS = (
    "Because of: the largest parts of the effect by columns, in its unit; with the rest (other columns, the intercept, "
    "the bend of the measure) they add up to it."
)
"""What stands in the column "because of", in a sentence."""
ITSELF = "The row is one of the training rows: the model has seen it, and it may stand among those that are listed."
COLUMNS = (
    "predicted: the change that influence predicts if the row is removed; actual: that of training again without it; "
    "error: predicted less actual. A perfect forecast has a slope of 1 and an error of 0."
)
"""What stands in the columns of a verification."""


@asks()
def explain(
    fitted: FittedFile,
    row: Row,
    test: Test = None,
    measure: Measure = None,
    relative: Relative = False,
    first_order: FirstOrder = False,
    k: K = 10,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which training rows made the model say this of a row, and which columns of them."""
    import pandas as pd

    from .. import uses
    from ..tables.asked import asked_about

    asked = asked_about(fitted, row, test, Asking.of(measure, fitted))
    found = uses.explain(
        fitted.model.influence,
        asked.batch,
        k=k,
        relative=relative,
        measure=asked.measure,
        first_order=first_order,
    )
    sides = zip((found.helpful, found.harmful.iloc[::-1]), found.scores.roles, strict=True)
    both = pd.concat([table.assign(role=role) for table, role in sides])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    if asked.said.quantity:
        both = own_name(both, "label", fitted)
    parts = PARTS if found.parts else ""
    itself = ITSELF if test is None and asked.raw.name in fitted.raw.index else ""
    scores = found.scores
    for line in (
        str(asked.said),
        itself,
        scores.sign,
        scores.prediction,
        asked.unit,
        parts,
        *scores.remarks,
        *found.comparisons,
    ):
        if line:
            tell(line, always=True)
    show(both, format, out, f"Training rows responsible for row {row}")


@asks()
def verify(
    fitted: FittedFile,
    row: Row,
    test: Test = None,
    measure: Measure = None,
    k: Annotated[
        int,
        typer.Option(
            "--k", help="Retrain without each of the k rows of largest effect and k random ones.", min=2
        ),
    ] = 20,
    seed: Annotated[int, typer.Option(help="Seed of the random control group.", min=0)] = 0,
    first_order: FirstOrder = False,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of predicted against actual changes.", dir_okay=False)
    ] = None,
    fail_over: FailOver = ROUGH,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Whether an explanation holds: retrain without single rows, and compare with what was predicted."""
    from ..measures import name_of
    from ..tables.asked import asked_about
    from ..validation.verify import verify as compared_with_retraining

    fitted.model.check_refit()
    asked, model = asked_about(fitted, row, test, Asking.of(measure, fitted)), fitted.model
    found = compared_with_retraining(
        model.influence,
        asked.batch,
        k=k,
        seed=seed,
        refit=model.refit,
        measure=asked.measure,
        first_order=first_order,
    )
    if picture is not None:
        from .. import plots

        plots.verification(found).savefig(picture, dpi=160)
    for line in (str(asked.said), asked.unit, f"{found.judgement}.", *str(found).splitlines(), COLUMNS):
        if line:
            tell(line, always=True)
    table = found.table.set_index("train row")[["group", "predicted", "actual"]]
    table = table.assign(error=table["predicted"] - table["actual"])
    title = f"Change of the {name_of(asked.measure)} of row {row} without single training rows"
    show(table, format, out, title)
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
    measure: Measure = None,
    relative: Relative = False,
    first_order: FirstOrder = False,
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
    from ..tables.asked import asked_about

    fitted.model.check_refit()
    asked = asked_about(fitted, row, test, Asking.of(measure, fitted))
    page = explained_row(fitted, asked, k=k, checked=checked, relative=relative, first_order=first_order)
    write(out, page)
    give(f"{out}\n")
    confirmed(page.verified, fail_over)
