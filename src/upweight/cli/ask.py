"""The questions that the command line answers about a user's own files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .app import GATE, answering, app, say
from .show import Format, show

if TYPE_CHECKING:
    from .files import Asked

File = Annotated[
    Path,
    typer.Argument(
        help="Training data: CSV, TSV, Parquet or Arrow, one example per row.", show_default=False
    ),
]
Target = Annotated[str, typer.Option(help="The column that the model predicts.", show_default=False)]
Model = Annotated[
    Path | None,
    typer.Option(
        help="A fitted scikit-learn model in a skops file; otherwise one is fitted.", show_default=False
    ),
]
Trust = Annotated[
    list[str] | None, typer.Option(help="A type that the skops file may use, besides those known to be safe.")
]
Text_ = Annotated[list[str] | None, typer.Option("--text", help="A column that holds text.")]
Image_ = Annotated[list[str] | None, typer.Option("--image", help="A column that holds paths of images.")]
Drop = Annotated[list[str] | None, typer.Option(help="A column that the model must not see.")]
Id = Annotated[
    str | None, typer.Option(help="The column that names the rows; otherwise they are counted from 0.")
]
Encoding = Annotated[str, typer.Option(help="Encoding of a CSV or TSV file.")]
Format_ = Annotated[
    Format | None,
    typer.Option("--format", help="Otherwise by the suffix of --out: a table on a terminal, CSV in a pipe."),
]
Out = Annotated[Path | None, typer.Option(help="File to write to.", dir_okay=False)]
K = Annotated[int, typer.Option("--k", help="Rows to show.", min=1)]
Test = Annotated[
    Path | None, typer.Option(help="File with the rows that are asked about; otherwise the training data.")
]


AUDITED = 200
"""Test rows whose vulnerability is looked at: the least certain ones."""


@app.command()
@answering
def explain(
    file: File,
    target: Target,
    row: Annotated[
        str, typer.Option(help="The row (or id) whose prediction is explained.", show_default=False)
    ],
    test: Test = None,
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Rank by effect relative to each row's own pull: outliers step back."
        ),
    ] = False,
    k: K = 10,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which training rows made the model say this of a row, and which columns of them."""
    import pandas as pd

    from ..uses.explain import explain

    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    X, y = asked.batch(test, row)
    found = explain(asked.influence, (X, y), k=k, relative=relative)
    helpful, harmful = found.helpful.assign(role="helpful"), found.harmful.assign(role="harmful")
    both = pd.concat([helpful, harmful.iloc[::-1]])
    both = both[["role", *[name for name in both if name not in ("role", "influence")]]]
    say(f"{found.question}\n{found.scores.sign}\n{found.scores.verdict}")
    show(both, format, out, f"Training rows responsible for row {row}")


@app.command()
@answering
def mislabeled(
    file: File,
    target: Target,
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
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

    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    if not asked.classifies:
        raise ValueError(f"mislabeled is for classes; the target {target!r} is a quantity")
    table = mislabeled(asked.influence).table.rename_axis(asked.id)
    contradicted = table["label"] != table["proposed label"]
    words = f"The others contradict {int(contradicted.sum()):,} of {len(table):,} labels ({contradicted.mean():.1%})."
    k = k or (20 if out is None and format is None and sys.stdout.isatty() else len(table))
    show(table.head(k), format, out, f"The most suspicious labels first. {words}")
    say(words)
    if fail_over is not None and contradicted.mean() > fail_over:
        typer.echo(f"{words} More than the {fail_over:.1%} of --fail-over.", err=True)
        raise typer.Exit(GATE)


@app.command()
@answering
def mismatch(
    file: File,
    target: Target,
    by: Annotated[str, typer.Option(help="The column whose values make the groups.", show_default=False)],
    test: Test = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only rows asked about of which this holds, as pandas queries say it: \"age == '[0-10)'\"."
        ),
    ] = None,
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which group of training rows drives the errors on a slice of the test data."""
    from ..uses.mismatch import mismatch

    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    groups = asked.column(by)
    found = mismatch(asked.influence, asked.batch(test, where=where), by=groups)
    say(f"Columns responsible in group {found.groups.index[0]!r}:\n{found.features.to_string(index=False)}")
    title = "Change of the slice's mean loss if a group were removed (negative = it harms)"
    show(found.groups.rename_axis(by).head(k), format, out, title)


@app.command()
@answering
def remove(
    file: File,
    target: Target,
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
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
    format: Format_ = None,
    out: Out = None,
) -> None:
    """What if these rows were gone: the predicted change of the loss, before anything is retrained."""
    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    gone = asked.rows(where)
    found = asked.influence.of_removal({where: gone}, asked.batch(test, row)).to_frame()
    say(f"{len(gone):,} of {len(asked.X):,} training rows removed; positive = the loss would rise.")
    numbers = found.drop(columns=["test row"]).groupby("group", sort=False).mean()
    show(numbers, format, out, "Predicted change of the mean loss")


@app.command()
@answering
def verify(
    file: File,
    target: Target,
    row: Annotated[
        str, typer.Option(help="The row (or id) whose explanation is checked.", show_default=False)
    ],
    test: Test = None,
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
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
    from ..verify import verify

    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    found = verify(asked.influence, asked.batch(test, row), k=k, seed=seed)
    if picture is not None:
        plots.verification(found).savefig(picture, dpi=160)
    say(str(found))
    show(found.table, format, out, f"Change of the loss of row {row} without single training rows")


@app.command()
@answering
def report(
    file: File,
    target: Target,
    row: Annotated[
        str, typer.Option(help="The row (or id) whose prediction is explained.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The HTML file to write.", dir_okay=False)] = Path("report.html"),
    test: Test = None,
    model: Model = None,
    trust: Trust = None,
    text: Text_ = None,
    image: Image_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
    relative: Annotated[
        bool,
        typer.Option(
            "--relative", help="Rank by effect relative to each row's own pull: outliers step back."
        ),
    ] = False,
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

    asked = _asked(file, target, model, trust, text, image, drop, id, encoding)
    explanation(asked, file, test, row, out, k=k, checked=checked, relative=relative)
    typer.echo(str(out))


@app.command()
@answering
def attack(
    file: File,
    target: Target,
    radius: Annotated[
        float,
        typer.Option(help="How far each number of a training row may move, in standard deviations.", min=0),
    ] = 0.5,
    test: Test = None,
    where: Annotated[
        str | None, typer.Option(help="Only rows asked about of which this holds, as pandas queries say it.")
    ] = None,
    text: Text_ = None,
    drop: Drop = None,
    id: Id = None,
    encoding: Encoding = "utf-8",
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """How vulnerable a model is: which predictions one training row, moved a little, could turn (to first order).

    Only columns of numbers move. Among the rows asked about the 200 least certain ones are looked at.
    """
    from ..uses.attack import vulnerable_targets

    asked = _asked(file, target, None, None, text, None, drop, id, encoding)
    if not asked.classifies:
        raise ValueError(f"attack is for classes; the target {target!r} is a quantity")
    table = vulnerable_targets(
        asked.influence,
        asked.problem.design,
        asked.least_certain(asked.batch(test, where=where), AUDITED),
        rows=range(len(asked.X)),
        radius=asked.radius(radius),
    )
    table["row"] = asked.X.index[table["row"].to_numpy()]
    words = (
        f"One row could turn {int(table['flips'].sum()):,} of the {len(table):,} least certain predictions."
    )
    show(table.rename_axis("place").head(k), format, out, words)
    say(words)


def _asked(
    file: Path,
    target: str,
    model: Path | None,
    trust: list[str] | None,
    text: list[str] | None,
    image: list[str] | None,
    drop: list[str] | None,
    id: str | None,
    encoding: str,
) -> Asked:
    from .files import Asked

    asked: Any = Asked.of(
        file,
        target,
        model=model,
        trust=trust or [],
        text=text or [],
        image=image or [],
        drop=drop or [],
        id=id,
        encoding=encoding,
    )
    return asked
