"""Many rows that are asked about at once: a measure of all of them, or its gap between groups of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..measures import Overall, gap
from ..types import Batch
from .fitted_file import FittedFile, as_groups
from .held_out import unseen
from .reading import FileError


@dataclass(frozen=True, eq=False)
class AskedSet:
    """Rows that are asked about together.

    Attributes:
        fitted: The training file with a model that has not seen them.
        batch: The rows as a batch of the model's.
        measure: What is asked about, one number of all of them.
        count: How many rows they are.
        words: Where they come from, and what the measure is as long as nothing is removed: a sentence each.
    """

    fitted: FittedFile
    batch: Batch
    measure: Overall
    count: int
    words: tuple[str, ...]


def asked_together(
    fitted: FittedFile, measure: Overall, test: Path | None = None, *, by: str | None = None, seed: int = 0
) -> AskedSet:
    """The rows of a second file, or a fifth of the training rows that is held out, with what is asked about them.

    Args:
        fitted: The training file with its model.
        measure: One number of all rows that are asked about.
        test: The second file; None holds out.
        by: A column whose values make groups: the gap of the measure between them is asked about.
        seed: The seed of the draw.

    Raises:
        FileError: The model is of a quantity, there is no such column, or a group has no value of the measure.
    """
    if not fitted.model.classifies:
        raise FileError(
            f"{measure.name} is about classes, and {fitted.target} is a quantity: ask about the loss or the prediction"
        )
    asked = unseen(fitted, test, seed=seed)
    model, rows = asked.fitted.model, asked.rows

    def value(batch: Batch, of: Overall) -> float:
        return float(model.influence.problem.evaluate(batch, of)[0])

    if by is None:
        wanted, said = measure, ""
    else:
        groups = as_groups(rows, by)
        wanted, folder = gap(measure, groups), fitted.folder(test)
        several = groups.nunique() > 1
        if not several:
            raise FileError(f"the rows asked about are one group by {by}: a gap needs two")
        value(asked.batch, wanted)  # names the group that has no value
        said = ": " + ", ".join(
            f"{name} {value(model.batches(some, folder), measure):.4g} ({len(some):,} rows)"
            for name, some in rows.groupby(groups)
        )
    number = value(asked.batch, wanted)
    between = "" if by is None else f" between the groups of {by}"
    now = f"The {wanted.name} of the {len(rows):,} rows asked about{between} is {number:.4g}{said}."
    return AskedSet(asked.fitted, asked.batch, wanted, len(rows), tuple(filter(None, (asked.words, now))))
