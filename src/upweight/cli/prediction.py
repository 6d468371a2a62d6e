"""Commands about the prediction of one row: explain it, check the explanation, write a report of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InfluenceError
from ..runtime.progress import tell
from ..runtime.terminal import give
from .asked import question
from .conclusions import Cluster, Level
from .index import from_index
from .options import (
    ROUGH,
    By,
    FailOver,
    FirstOrder,
    Format_,
    Index,
    K,
    Measure,
    Out,
    Relative,
    Row,
    Seed,
    Test,
)
from .questions import asks
from .show import own_name, show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile
    from ..validation.verify import Verification

PARTS = (
    "Because of: the largest parts of the effect by columns, in its unit; with the rest (other columns, the intercept, "
    "the bend of the measure and of the training losses) they add up to it."
)
"""What stands in the column "because of", in a sentence."""
MET = (
    "Because of: the largest parts of the effect by columns, in its unit: what goes through the leaves that both rows "
    "are in, shared evenly among the columns that were split on before; with the rest (other columns, the start, other "
    "leaves, what is not of first order) they add up to it."
)
"""The same for trees."""
COLUMNS = (
    "predicted: the change that influence predicts if the row is removed; actual: that of training again without it; "
    "error: predicted less actual. A perfect forecast has a slope of 1 and an error of 0."
)
"""What stands in the columns of a verification."""


@asks()
def explain(
    fitted: FittedFile,
    row: Row = None,
    test: Test = None,
    measure: Measure = None,
    by: By = None,
    relative: Relative = False,
    first_order: FirstOrder = False,
    index: Index = None,
    k: K = 10,
    seed: Seed = 0,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which training rows made the model say this of a row, and which columns of them; or move a number of many rows.

    A measure of many rows, such as --measure auroc, is asked about without --row: of the rows of --test, or of a fifth
    that is held out. With --by it is the gap of the measure between groups of them.
    """
    import pandas as pd

    from .. import uses

    asked = question(fitted, row, test, measure, by, seed)
    if index is not None:
        show(from_index(asked, index, k), format, out, f"Training rows responsible for {asked.about}")
        return
    found = uses.explain(
        asked.fitted.model.influence,
        asked.batch,
        k=k,
        relative=relative,
        measure=asked.measure,
        first_order=first_order,
    )
    sides = zip((found.helpful, found.harmful.iloc[::-1]), found.scores.roles, strict=True)
    both = pd.concat([table.assign(role=role) for table, role in sides])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    if found.said.quantity:
        both = own_name(both, "label", fitted)
    problem, scores = asked.fitted.model.influence.problem, found.scores
    parts = (PARTS if problem.stages is None else MET) if found.parts else ""
    fixed = () if problem.stages is None else problem.remarks
    for line in (
        *asked.words,
        scores.sign,
        scores.prediction,
        parts,
        *scores.remarks,
        *fixed,
        *found.comparisons,
    ):
        if line:
            tell(line, always=True)
    show(both, format, out, f"Training rows responsible for {asked.about}")


@asks(without=("problem",))
def flip_set(
    fitted: FittedFile,
    row: Annotated[str, typer.Option(help="The row (or id) that is asked about.", show_default=False)],
    test: Test = None,
    relabel: Annotated[
        bool, typer.Option("--relabel", help="Give rows the rival's label, where they are removed otherwise.")
    ] = False,
    past: Annotated[
        float | None,
        typer.Option(help="Of trees that predict a quantity: the value that the prediction is to pass."),
    ] = None,
    most: Annotated[
        int | None, typer.Option(help="The largest set; otherwise half of the rows.", min=1)
    ] = None,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """The fewest training rows found without which the model says something else of a row, confirmed by retraining.

    For two or more classes of linear models, and for boosted trees. Rows are listed in the order in which the search
    took them. The exit code is 1 where no set is found.
    """
    from .. import uses

    fitted.model.check_refit()
    asked = question(fitted, row, test, None, None)
    influence, refit = fitted.model.influence, fitted.model.refit
    found = uses.flip_set(influence, asked.batch, relabel=relabel, past=past, most=most, refit=refit)
    for line in (*asked.words, f"{found}."):
        tell(line, always=True)
    if found.rows is None:
        raise InfluenceError(f"no such set of {most or len(fitted.raw) // 2:,} rows or fewer was found")
    table = fitted.raw.loc[found.names].rename_axis("train row")
    show(table, format, out, f"Training rows that decide what the model says of {asked.about}")


@asks()
def verify(
    fitted: FittedFile,
    row: Row = None,
    test: Test = None,
    measure: Measure = None,
    by: By = None,
    k: Annotated[
        int,
        typer.Option(
            "--k", help="Retrain without each of the k rows of largest effect and k random ones.", min=2
        ),
    ] = 20,
    seed: Annotated[
        int, typer.Option(help="Seed of the random control group, and of rows that are held out.", min=0)
    ] = 0,
    first_order: FirstOrder = False,
    picture: Annotated[
        Path | None, typer.Option(help="A PNG of predicted against actual changes.", dir_okay=False)
    ] = None,
    fail_over: FailOver = ROUGH,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Whether an explanation holds: retrain without single rows, and compare with what was predicted."""
    from ..validation.verify import verify as compared_with_retraining

    fitted.model.check_refit()
    asked = question(fitted, row, test, measure, by, seed)
    model = asked.fitted.model
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
    for line in (*asked.words, f"{found.judgement}.", *str(found).splitlines(), COLUMNS):
        tell(line, always=True)
    table = found.table.set_index("train row")[["group", "predicted", "actual"]]
    table = table.assign(error=table["predicted"] - table["actual"])
    title = f"Change of the {found.measure} of {asked.about} without single training rows"
    show(table, format, out, title)
    confirmed(found, fail_over)


def confirmed(found: Verification, most: float) -> None:
    """Nothing happens where retraining confirms predictions to the share `most`; else InfluenceError says why not."""
    if reason := found.shortcoming(most):
        raise InfluenceError(reason)


@asks()
def report(
    fitted: FittedFile,
    row: Row = None,
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)] = Path("report.html"),
    test: Test = None,
    measure: Measure = None,
    by: By = None,
    relative: Relative = False,
    first_order: FirstOrder = False,
    coef: Annotated[
        list[str] | None,
        typer.Option(
            help="Also how robust the conclusions about this coefficient are, as the command robustness says it; "
            "without --row and --measure nothing else."
        ),
    ] = None,
    cluster: Cluster = None,
    level: Level = 0.05,
    k: Annotated[int, typer.Option("--k", help="Helpful and harmful rows to show, each.", min=1)] = 10,
    checked: Annotated[
        int,
        typer.Option(
            help="Retrain without each of so many rows of largest effect, and as many random ones.", min=2
        ),
    ] = 20,
    seed: Seed = 0,
    fail_over: FailOver = ROUGH,
) -> None:
    """One HTML file that explains a prediction: the rows as they are, what is responsible in them, and the proof."""
    from ..report import robust_part, write, write_conclusions

    part = robust_part(fitted, coef, level, cluster) if coef else None
    if part is not None and row is None and measure is None:
        write_conclusions(out, part, fitted)
        give(f"{out}\n")
        return
    fitted.model.check_refit()
    asked = question(fitted, row, test, measure, by, seed)
    assert asked.page is not None
    page = replace(asked.page(k=k, checked=checked, relative=relative, first_order=first_order), robust=part)
    write(out, page)
    give(f"{out}\n")
    confirmed(page.verified, fail_over)
