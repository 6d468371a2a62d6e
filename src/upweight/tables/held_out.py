"""Rows that the model has not seen, to ask about: those of a second file, or a fifth of the training file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from ..influence.influence import Influence
from ..runtime.progress import phase
from ..types import Batch
from .conditions import fulfilling
from .fitted_file import FittedFile
from .reading import FileError

HELD = 0.2
"""The share of the rows that is held out."""


@dataclass(frozen=True, eq=False)
class Unseen:
    """Rows that a model has not seen.

    Attributes:
        fitted: The training file, less what was held out, with the model of it.
        batch: The rows that are asked about, as a batch of the model's.
        rows: These rows as they stand in their file.
        words: What was held out and why, in a sentence; "" where the rows are those of a second file.
    """

    fitted: FittedFile
    batch: Batch
    rows: pd.DataFrame
    words: str = ""


def unseen(fitted: FittedFile, test: Path | None, *, where: str | None = None, seed: int = 0) -> Unseen:
    """The rows of a second file; without one, a fifth of the training file, and the model fitted to the others alone.

    A model has made its peace with the rows that it learned from: hardly any group of them can harm the others. A
    linear model is fitted again from where it was; how columns were scaled and words were weighted stays.

    Args:
        fitted: The training file with its model.
        test: The second file; None holds out.
        where: A condition that the rows asked about fulfil, as pandas queries say it.
        seed: The seed of the draw.

    Raises:
        FileError: The condition cannot be used or holds of none of these rows, too few rows are left, or the model is
            none that is fitted again here: then a second file is needed.
    """
    if test is not None:
        rows = fitted.asked_rows(test, where=where)
        return Unseen(fitted, fitted.model.batches(rows, fitted.folder(test)), rows)
    if (again := fitted.model.again) is None:
        raise FileError(
            "--test FILE is needed: the rows asked about must be others than the model has seen, and a network is not "
            "trained again here"
        )
    n = len(fitted.raw)
    drawn = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    held, kept = (
        rows.sort().values for rows in drawn.split([max(1, round(HELD * n)), n - max(1, round(HELD * n))])
    )
    left = fitted.raw.iloc[kept.numpy()]
    if fitted.model.classifies and left[fitted.target].nunique() < 2:
        raise FileError(f"--test FILE is needed: without a fifth of the {n:,} rows one class is left")
    asked, some = fitted.raw.iloc[held.numpy()], ""
    if where is not None:
        asked = asked.loc[fulfilling(fitted.raw, where)[held.numpy()]]
        some = f"the {len(asked):,} of which {where!r} holds among "
    if not len(asked):
        raise FileError(
            f"{where!r} holds of none of the {len(held):,} rows that are held out (seed {seed}): give another --seed, "
            "or rows to ask about by --test FILE"
        )
    with phase(f"training on {len(kept):,} rows"):
        model = replace(fitted.model, influence=Influence(again(kept)), retrained=None)
    return Unseen(
        replace(fitted, raw=left, model=model),
        fitted.model.batches(asked, fitted.folder()),
        asked,
        f"Without --test a fifth of the rows is held out (seed {seed}): the model is fitted to {len(kept):,} rows, and "
        f"asked about {some}the {len(held):,} others, which it has not seen.",
    )
