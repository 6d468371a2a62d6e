"""The questions that the command line answers about a user's own files."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..runtime.progress import tell
from .app import GATE, answering, app
from .show import Format, show

if TYPE_CHECKING:
    from ..tables.fitted_file import Asked

Row = Annotated[str, typer.Option(help="The row (or id) that is asked about.", show_default=False)]
Format_ = Annotated[
    Format | None,
    typer.Option("--format", help="Otherwise by the suffix of --out: a table on a terminal, CSV in a pipe."),
]
Out = Annotated[Path | None, typer.Option(help="File to write to.", dir_okay=False)]
K = Annotated[int, typer.Option("--k", help="Rows to show.", min=1)]
Test = Annotated[
    Path | None, typer.Option(help="File with the rows that are asked about; otherwise the training data.")
]
Relative = Annotated[
    bool,
    typer.Option("--relative", help="Rank by effect relative to each row's own pull: outliers step back."),
]


def _read(
    file: Annotated[
        Path,
        typer.Argument(
            help="Training data: CSV, TSV, Parquet or Arrow, one example per row.", show_default=False
        ),
    ],
    target: Annotated[str, typer.Option(help="The column that the model predicts.", show_default=False)],
    model: Annotated[
        Path | None,
        typer.Option(
            help="A fitted scikit-learn model in a skops file; otherwise one is fitted.", show_default=False
        ),
    ] = None,
    trust: Annotated[
        list[str] | None,
        typer.Option(help="A type that the skops file may use, besides those known to be safe."),
    ] = None,
    problem: Annotated[
        str | None,
        typer.Option(
            help="MODULE:FUNCTION that makes a trained PyTorch model's Problem of the file's table; see the README.",
            show_default=False,
        ),
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A column that holds text.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="A column that holds paths of images.")] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A column that the model must not see.")] = None,
    id: Annotated[
        str | None, typer.Option(help="The column that names the rows; otherwise they are counted from 0.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Encoding of a CSV or TSV file.")] = "utf-8",
) -> Asked:
    from ..tables.fitted_file import Asked

    return Asked.of(
        file,
        target,
        model=model,
        trust=trust or [],
        problem=problem,
        text=text or [],
        image=image or [],
        drop=drop or [],
        id=id,
        encoding=encoding,
    )


def asks(*, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command that gets the model of a user's file: its own options, then those that say how the file is read."""

    def command(question: Callable[..., None]) -> Callable[..., None]:
        shared, own = (
            [
                p.replace(kind=p.KEYWORD_ONLY)
                for p in inspect.signature(f, eval_str=True, locals={"Asked": Any}).parameters.values()
            ]
            for f in (_read, question)
        )
        names = [p.name for p in shared if p.name not in without]
        file, target, *reading = (p for p in shared if p.name in names)

        def asked(**options: Any) -> None:
            question(_read(**{name: options.pop(name) for name in names}), **options)

        asked.__name__, asked.__doc__ = question.__name__, question.__doc__
        parameters = [file, target, *own[1:], *reading]
        asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        asked.__annotations__ = {p.name: p.annotation for p in parameters}
        return app.command()(answering(asked))

    return command


AUDITED = 200
"""Test rows whose vulnerability is looked at: the least certain ones."""


@asks()
def explain(
    asked: Asked,
    row: Row,
    test: Test = None,
    relative: Relative = False,
    k: K = 10,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which training rows made the model say this of a row, and which columns of them."""
    import pandas as pd

    from ..uses.explain import explain

    X, y = asked.batch(test, row)
    found = explain(asked.influence, (X, y), k=k, relative=relative)
    helpful, harmful = found.helpful.assign(role="helpful"), found.harmful.assign(role="harmful")
    both = pd.concat([helpful, harmful.iloc[::-1]])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    tell(f"{found.question}\n{found.scores.sign}\n{found.scores.verdict}")
    show(both, format, out, f"Training rows responsible for row {row}")


@asks()
def mislabeled(
    asked: Asked,
    k: Annotated[
        int | None,
        typer.Option("--k", help="Rows to show; otherwise 20 on a terminal, all elsewhere.", min=1),
    ] = None,
    format: Format_ = None,
    out: Out = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            help="End with exit code 3 if the others contradict more than this share of the labels.",
            min=0,
            max=1,
        ),
    ] = None,
) -> None:
    """Which labels are most likely wrong: the loss of each row in a model that has not seen it."""
    import sys

    from ..uses.mislabeled import mislabeled

    if not asked.classifies:
        raise ValueError(f"mislabeled is for classes; the target {asked.target!r} is a quantity")
    table = mislabeled(asked.influence).table.rename_axis(asked.id)
    if "label" not in table:
        table.insert(0, "label", asked.raw.loc[table.index, asked.target])
    contradicted, words = None, "For this model nothing but self-influence is known."
    if "proposed label" in table:
        wrong = table["label"] != table["proposed label"]
        contradicted = float(wrong.mean())
        words = f"The others contradict {int(wrong.sum()):,} of {len(table):,} labels ({contradicted:.1%})."
    elif fail_over is not None:
        raise ValueError("--fail-over needs labels that the model proposes: it is for linear models")
    k = k or (20 if out is None and format is None and sys.stdout.isatty() else len(table))
    show(table.head(k), format, out, f"The most suspicious labels first. {words}")
    tell(words)
    if fail_over is not None and contradicted is not None and contradicted > fail_over:
        typer.echo(f"{words} More than the {fail_over:.1%} of --fail-over.", err=True)
        raise typer.Exit(GATE)


@asks()
def mismatch(
    asked: Asked,
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
    from ..uses.mismatch import mismatch

    groups = asked.column(by)
    found = mismatch(asked.influence, asked.batch(test, where=where), by=groups)
    tell(f"Columns responsible in group {found.groups.index[0]!r}:\n{found.features.to_string(index=False)}")
    title = "Change of the slice's mean loss if a group were removed (negative = it harms)"
    show(found.groups.rename_axis(by).head(k), format, out, title)


@asks()
def remove(
    asked: Asked,
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
    gone = asked.rows(where)
    found = asked.influence.of_removal({where: gone}, asked.batch(test, row)).to_frame()
    tell(f"{len(gone):,} of {len(asked.raw):,} training rows removed; positive = the loss would rise.")
    numbers = found.drop(columns=["test row"]).groupby("group", sort=False).mean()
    show(numbers, format, out, "Predicted change of the mean loss")


@asks()
def verify(
    asked: Asked,
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
    from .. import plots
    from ..validation.verify import verify

    found = verify(asked.influence, asked.batch(test, row), k=k, seed=seed, refit=asked.refit)
    if picture is not None:
        plots.verification(found).savefig(picture, dpi=160)
    tell(str(found))
    show(found.table, format, out, f"Change of the loss of row {row} without single training rows")


@asks()
def report(
    asked: Asked,
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
    from .pages import explanation

    explanation(asked, test, row, out, k=k, checked=checked, relative=relative)
    typer.echo(str(out))


@asks(without=("model", "trust", "image", "problem"))
def attack(
    asked: Asked,
    radius: Annotated[
        float,
        typer.Option(help="How far each number of a training row may move, in standard deviations.", min=0),
    ] = 0.5,
    test: Test = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows asked about of which this holds, as pandas queries say it.")
    ] = None,
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How vulnerable a model is: which predictions one training row, moved a little, could turn (to first order).

    Only columns of numbers move. Among the rows asked about the 200 least certain ones are looked at.
    """
    from ..uses.attack import vulnerable_targets

    if not asked.classifies:
        raise ValueError(f"attack is for classes; the target {asked.target!r} is a quantity")
    table = vulnerable_targets(
        asked.influence,
        asked.problem.design,
        asked.least_certain(asked.batch(test, where=where), AUDITED),
        rows=range(len(asked.raw)),
        radius=asked.radius(radius),
    )
    table["row"] = asked.raw.index[table["row"].to_numpy()]
    words = (
        f"One row could turn {int(table['flips'].sum()):,} of the {len(table):,} least certain predictions."
    )
    show(table.rename_axis("place").head(k), format, out, words)
    tell(words)


@asks(without=("problem",))
def review(
    asked: Asked,
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
    from .review import reviewed

    reviewed(
        asked, held=held, seed=seed, journal=journal, export=export, exact=exact, port=port, browser=browser
    )
