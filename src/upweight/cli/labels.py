"""Commands about labels that may be wrong: list the most suspicious ones, and review them one by one."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..runtime.progress import phase, tell
from ..runtime.terminal import give, say
from ..runtime.whole_files import whole
from .app import GATE
from .options import Format_, Out
from .questions import asks
from .show import own_name, show

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile


@asks()
def mislabeled(
    fitted: FittedFile,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Rows to show; otherwise 20 on a terminal, all elsewhere.", min=1),
    ] = None,
    format: Format_ = None,
    out: Out = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            help="End with exit code 3 if more than this share of the labels is contradicted.",
            min=0,
            max=1,
        ),
    ] = None,
    cleanlab: Annotated[
        bool,
        typer.Option(
            "--cleanlab",
            help="List all rows in the file's order, in the columns of cleanlab's Datalab.get_issues.",
        ),
    ] = False,
) -> None:
    """Which labels are most likely wrong: the loss of each row in a model that has not seen it.

    A label is contradicted where that model is surer of another class than it is of that class's own rows in the mean.
    Where classes overlap some right labels are contradicted too: try a file that is known to be good before you choose
    the share of --fail-over. Of quantities, values come first that are furthest from what the others say of them.
    """
    from .. import uses

    untrained = fitted.model.untrained()
    found = uses.mislabeled(fitted.model.influence)
    if fail_over is not None and "contradicted" not in found.table:
        raise ValueError(
            "--fail-over needs labels that the model proposes: it is for linear models of classes and trees that are "
            "trained again"
        )
    table = found.table.rename_axis(fitted.heading)
    if "error without the row" in table:  # losses of quantities have the square of their unit
        shown = ("value", "said without the row", "error without the row", "leverage")
        table = table[[name for name in shown if name in table]]
    if "value" in table:
        table = own_name(table, "value", fitted)
    if "label" not in table and fitted.model.classifies:
        table.insert(0, "label", fitted.raw.loc[table.index, fitted.target])
    if "proposed label" in table:  # the row's own label is no proposal
        proposed = table["proposed label"].astype(object)
        table["proposed label"] = proposed.where(proposed != table["label"], None)
    kind = "label" if fitted.model.classifies else "value"
    words = found.summary or f"Rows are ranked by {found.ranked_by}: no {kind} is proposed."
    if cleanlab:
        table, k = found.cleanlab().rename_axis(fitted.heading).loc[fitted.raw.index], k or len(table)
    k = k or (20 if out is None and format is None and sys.stdout.isatty() else len(table))
    show(
        table.head(k),
        format,
        out,
        f"The most suspicious {'labels' if fitted.model.classifies else 'values'} first",
    )
    tell("\n".join(filter(None, [words, untrained])), always=True)
    if fail_over is not None and (share := float(found.table["contradicted"].mean())) > fail_over:
        say(f"{share:.2%} contradicted is more than the {fail_over:.2%} of --fail-over.", err=True)
        raise typer.Exit(GATE)


@asks(without=("problem", "drop_missing"))
def review(
    fitted: FittedFile,
    held: Annotated[
        float,
        typer.Option(
            help="Share of the rows that the model does not see: its accuracy is measured on them.",
            min=0.01,
            max=0.9,
        ),
    ] = 0.2,
    seed: Annotated[int, typer.Option(help="Seed of that draw.", min=0)] = 0,
    journal: Annotated[
        Path | None,
        typer.Option(
            help="The file of decisions; otherwise FILE.review beside it.", dir_okay=False, show_default=False
        ),
    ] = None,
    export: Annotated[
        Path | None,
        typer.Option(help="Write the corrected file and end, instead of serving the page.", dir_okay=False),
    ] = None,
    exact: Annotated[
        bool,
        typer.Option(
            "--exact", help="Export cells as they are, also those that a spreadsheet would run as a formula."
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0 takes a free one.", min=0, max=65535)] = 0,
    browser: Annotated[
        bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")
    ] = True,
) -> None:
    """A page on this machine to keep, relabel or drop the rows whose labels are most doubtful, one by one.

    Every decision is written to the journal before the next row is shown: nothing is lost if the page or the machine
    stops, and the same command goes on.
    """
    try:
        from ..review import Journal, Session, corrected_file, serve
    except ImportError as missing:
        raise ImportError(
            'the review page is served with starlette: pip install "upweight[review]"'
        ) from missing

    from ..tables import INPUT

    if fitted.path == INPUT:
        raise ValueError("a review needs a file that stays where it is: its decisions name rows of that file")
    path = journal or fitted.path.with_name(f"{fitted.path.name}.review")
    decisions = Journal(path, fitted.path.name, fitted.target, fitted.hash)
    session = Session(fitted, decisions, held=held, seed=seed)
    corrected = partial(corrected_file, session, exact=exact)
    if export is not None:
        with whole(export) as part:
            part.write_bytes(corrected()[1])
        give(f"{export}\n")
        return
    with phase(f"doubting {len(fitted.raw):,} labels"):
        session.start()

    def announce(address: str) -> None:
        say(f"{address}\nDecisions are kept in {path}. Ctrl-C ends the page.", err=True)

    serve(session, corrected, port=port, announce=announce, browser=browser)
