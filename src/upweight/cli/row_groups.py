"""Commands about many rows at once: groups of training rows that drive errors, and rows that could be gone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InfluenceError
from ..runtime.progress import phase, tell
from .asked import ITSELF, Question, question
from .index import without
from .options import ROUGH, Asking, By, FailOver, Format_, Index, K, Measure, Out, Seed, TestOrHeld
from .questions import asks
from .show import show

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from ..influence.removal import Removal
    from ..tables.fitted_file import FittedFile
    from ..types import Tensor

STEPS = 3
"""Newton steps behind a guaranteed interval."""


@asks()
def mismatch(
    fitted: FittedFile,
    by: Annotated[str, typer.Option(help="The column whose values make the groups.", show_default=False)],
    test: TestOrHeld = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Only rows asked about of which this holds, as pandas queries say it: \"age == '[0-10)'\"."
        ),
    ] = None,
    seed: Seed = 0,
    k: K = 20,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """Which group of training rows drives the errors on a slice of the test data."""
    from .. import uses
    from ..tables.held_out import unseen

    asked = unseen(fitted, test, where=where, seed=seed)
    found = uses.mismatch(asked.fitted.model.influence, asked.batch, by=asked.fitted.column(by))
    words = [
        asked.words,
        "Effect of removal: the predicted change of the mean loss of the rows asked about if a group were removed from "
        "the training rows; negative = they would be predicted better without it, so that it harms.",
        unit(fitted),
        found.drift,
    ]
    if len(found.features):
        causes = found.features.to_string(index=False)
        group = f"Columns responsible in group {found.groups.index[0]!r}"
        words.append(f"{group}: parts that add up to its effect of first order\n{causes}")
    tell("\n".join(filter(None, words)), always=True)
    title = "Predicted change of the mean loss without a group of training rows"
    show(found.groups.rename_axis(by).head(k), format, out, title)


@asks()
def remove(
    fitted: FittedFile,
    where: Annotated[
        str,
        typer.Option(
            help="The rows to remove, as pandas queries say it: \"age == '[0-10)'\".", show_default=False
        ),
    ],
    row: Annotated[
        str | None, typer.Option(help="The row (or id) asked about; otherwise all, in the mean.")
    ] = None,
    test: TestOrHeld = None,
    measure: Measure = None,
    by: By = None,
    seed: Seed = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Train again without the rows, and show what changed.")
    ] = False,
    guarantee: Annotated[
        bool,
        typer.Option(
            "--guarantee",
            help="Also bounds between which the change by retraining lies for certain; for classes only.",
        ),
    ] = False,
    index: Index = None,
    fail_over: FailOver = ROUGH,
    format: Format_ = None,
    out: Out = None,
) -> None:
    """What if these rows were gone: the predicted change of the loss, before anything is retrained.

    Of a single row of a quantity (--row) it is the change of the prediction, in its own unit, unless --measure says
    otherwise. A row that --row names without --test is one of the training rows, and nothing is held out.
    """
    import torch

    from ..tables.reading import FileError
    from ..validation.refits import change_without

    if index is not None:
        check_index(verify=verify, guarantee=guarantee, held_out=row is None and test is None)
    asked = rows_asked(fitted, row, test, measure, by, seed)
    model = asked.fitted.model
    if guarantee and not model.classifies:
        raise FileError(
            "--guarantee is for classes; of a quantity the column newton is what retraining gives"
        )
    gone = torch.tensor(asked.fitted.rows(where))
    if verify:
        model.check_refit()
    if index is None:
        found = model.influence.of_removal(
            {where: gone}, asked.batch, measure=asked.measure, guarantee=STEPS * guarantee
        )
    else:
        found = without(asked, index, {where: gone})
    known, gaps = found.known, ""
    if row is None and bool(known.any()) and not bool(known.all()):
        gaps, found = in_emptied_leaves(known), found.of_rows(known)
    else:
        known = torch.ones_like(known)
    found = found.averaged if row is None else found
    numbers = found.to_frame().drop(columns=["test row"]).set_index("group")
    if verify:
        with phase("training again without the rows"):
            change = change_without(model.influence.problem, asked.batch, gone, model.refit, asked.measure)
        numbers.insert(0, "retrained", float(change[known].mean()))  # the best number first
    words = [
        *asked.words,
        f"{len(gone):,} of {len(asked.fitted.raw):,} training rows removed; positive = the {found.measure} would rise.",
        lost(asked.fitted, gone),
        gaps,
        *found.remarks,
        believed(numbers, found),
    ]
    tell("\n".join(filter(None, words)), always=True)
    show(numbers, format, out, f"Predicted change of the {found.measure}")
    if verify:
        confirmed(numbers, found.named, fail_over)


def check_index(*, verify: bool, guarantee: bool, held_out: bool) -> None:
    """Nothing happens where an index has all that a removal needs; FileError says what it has not.

    Args:
        verify: whether the model is trained again.
        guarantee: whether there are to be bounds.
        held_out: whether the rows asked about are held out of the training.
    """
    from ..tables.reading import FileError

    for name, given in (("--verify", verify), ("--guarantee", guarantee)):
        if given:
            raise FileError(f"an index answers alone, of first order: leave {name} out, or --index")
    if held_out:
        raise FileError(
            "an index is of the model of all rows, and without --test or --row some would be held out of the training: "
            "give one of them"
        )


def unit(fitted: FittedFile) -> str:
    """The unit of the changes of a quantity's loss, in a sentence; "" for classes, whose loss has none."""
    if fitted.model.classifies:
        return ""
    return f"The loss is half the squared error: changes are in the square of the unit of {fitted.target}."


def rows_asked(
    fitted: FittedFile,
    row: str | None,
    test: Path | None,
    measure: Asking | None,
    by: str | None,
    seed: int,
) -> Question:
    """What a removal is asked about: of many rows their mean loss or one number of all, of one what `explain` takes.

    Args:
        fitted: The training file with its model.
        row: The row (or id) of one of them; None stands for many, which the model has not seen.
        test: The file that they are in.
        measure: What is asked about.
        by: A column that makes groups of many rows.
        seed: The seed of the draw of many.
    """
    from ..tables.held_out import unseen

    if row is not None or by is not None or (measure is not None and measure.together is not None):
        asked = question(fitted, row, test, measure, by, seed)
        return replace(asked, words=tuple(word for word in asked.words if word != ITSELF))
    wanted = None if measure is None else Asking.of(measure, fitted)
    many = unseen(fitted, test, seed=seed)
    words = tuple(filter(None, (many.words, "" if wanted else unit(fitted))))
    return Question(many.fitted, f"{len(many.rows):,} rows", many.batch, wanted, words)


def in_emptied_leaves(known: Tensor) -> str:
    """That some rows have no prediction, in a sentence or two; `known` (m,) are those that have one."""
    unknown, count = int((~known).sum()), len(known)
    return (
        f"{unknown:,} of the {count:,} rows asked about have no prediction: a leaf that they are in has no other "
        f"training rows than the removed ones, so that a retraining splits otherwise. The figures are of the other "
        f"{count - unknown:,}."
    )


def lost(fitted: FittedFile, gone: Tensor) -> str:
    """Which classes no training row is left of without the rows `gone` (k,), in a sentence; "" where all are left."""
    import numpy as np

    if not fitted.model.classifies:
        return ""
    labels = fitted.raw[fitted.target].to_numpy()
    names = ", ".join(sorted(map(str, set(labels) - set(np.delete(labels, gone.numpy())))))
    return (
        f"Without them no training row is left of {names}: the model cannot predict it any more."
        if names
        else ""
    )


def believed(numbers: pd.DataFrame, found: Removal) -> str:
    """Which column of the removal's table is to be believed, and what the others are, in a few sentences."""
    if "retrained" in numbers:
        return "Believe the column retrained: it is what changed. The others were predicted before."
    if found.low is not None:
        return "Believe the columns low and high: what retraining would change lies between them for certain."
    if found.recomputed is not None:
        return (
            "Believe the column recomputed, as far as trees would split as before: leaf values computed anew without "
            "the whole set. first order adds up what each row does alone. For more look at --verify, which retrains."
        )
    if found.behind:
        return (
            "The column first order adds up what each row does alone, by the index. Without --index there is more: "
            "for linear models what the rows do together, and --verify, which retrains."
        )
    if found.newton is None:
        return "Of a network the sum of single effects (first order) is all that is known before: --verify retrains."
    return (
        "Believe the column newton: steps of training without the whole set, until 0.1% of the move is left. rescaled "
        "and first order add up what each row does alone (first order with its leverage left out): they miss what the "
        "rows do together. For a large set look at --verify, which retrains, or --guarantee."
    )


def confirmed(numbers: pd.DataFrame, best: str, most: float) -> None:
    """Nothing happens where a prediction is off by at most a share of the change by retraining.

    Args:
        numbers: The removal's table, of one line.
        best: The column of the prediction.
        most: The share.

    Raises:
        InfluenceError: By how much it is off.
    """
    predicted, actual = float(numbers[best].iloc[0]), float(numbers["retrained"].iloc[0])
    if math.isnan(predicted):
        raise InfluenceError(
            f"nothing was predicted, as said above: there is only what retraining gives, {actual:+.3g}"
        )
    if not abs(predicted - actual) <= most * abs(actual):
        raise InfluenceError(
            f"the prediction does not hold: {best} says {predicted:+.3g}, retraining {actual:+.3g}, which is more than "
            f"{100 * most:g}% off; believe the latter"
        )
