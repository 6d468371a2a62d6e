"""From a user's file to what a question needs: a trained model of it, and the rows that are asked about."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Int

from ..objective import LinearModel
from ..runtime.progress import phase, tell
from ..types import Batch
from .columns import Table, understood
from .conditions import fulfilling, row_label
from .file_models import FileModel, fitted_here, from_function, from_native, from_skops
from .native_files import NATIVE
from .plain_regression import plain_model
from .reading import INPUT, FileError, FileRead, Options, check_column, opened, row_ids
from .text_files import UTF8


@dataclass(frozen=True, eq=False)
class FittedFile:
    """A training file with a trained model of it: what every question about a user's file starts from.

    Rows that are asked about are rows of the training file, or of a second file, `test`, with the same columns.

    Attributes:
        file: The training file as it was read.
        target: The column that the model predicts.
        raw: The file's rows (n), numbers read as numbers; the index is the row, counted from 0, or its id.
        model: The trained model, with what it makes of the columns.
        table: What is known about the columns; None where the user's own function makes the model.
        id: The column that names the rows, if one does.
        options: How files are read, as far as the user says it.
    """

    file: FileRead
    target: str
    raw: pd.DataFrame
    model: FileModel
    table: Table | None = None
    id: str | None = None
    options: Options = field(default_factory=Options)

    @classmethod
    def of(
        cls,
        path: Path,
        target: str,
        *,
        model: Path | None = None,
        booster: str | None = None,
        trust: Collection[str] = (),
        problem: str | None = None,
        text: Sequence[str] = (),
        image: Sequence[str] = (),
        category: Sequence[str] = (),
        number: Sequence[str] = (),
        date: Sequence[str] = (),
        drop: Sequence[str] = (),
        id: str | None = None,
        drop_missing: bool = False,
        encoding: str = UTF8,
        separator: str | None = None,
        sheet: str | None = None,
        plain: bool = False,
    ) -> FittedFile:
        """A file is read, and a model of it fitted, or loaded, or made by the user; what is done is said meanwhile.

        Args:
            path: The training file, one example per row; "-" is standard input.
            target: The column that the model predicts.
            model: A fitted scikit-learn model in a skops file, or trees in a file of XGBoost, LightGBM or CatBoost.
            booster: The library of boosted trees that fits a model, a key of `BOOSTERS`; otherwise it is linear.
            trust: Types that the skops file may use, besides those known to be safe.
            problem: MODULE:FUNCTION that makes a trained PyTorch model's `Problem` of the file's table.
            text: Columns that hold text.
            image: Columns that hold paths of images.
            category: Columns that hold categories, also where they are coded as numbers; of the target: classes.
            number: Columns that hold numbers; what is none is missing. Of the target: a quantity.
            date: Columns that hold dates; what is none is missing.
            drop: Columns that the model must not see.
            id: The column that names the rows; otherwise they are counted from 0.
            drop_missing: Whether rows without a target are left out; otherwise they are refused.
            encoding: How the letters of a text file are written.
            separator: What stands between the cells of a text file; otherwise that is told by the text.
            sheet: The sheet of a spreadsheet, or the table of a database; otherwise the first, or the only one.
            plain: Whether the model is the regression of a statistician: columns as they are, complete rows alone.

        Raises:
            FileError: Something that was given cannot be used; the message says what to do.
        """
        if booster is not None and (model is not None or problem is not None):
            raise FileError("--booster fits a model, which --model and --problem bring along: leave one out")
        path, options = path if path == INPUT else path.resolve(), Options(encoding, separator, sheet)
        with phase(f"reading {path.name}"):
            file = opened(path, options)
        for note in file.notes:
            tell(note, always=True)
        raw = file.table
        if problem is not None:
            if model is not None:
                raise FileError("--model and --problem are two ways to say the same: leave one out")
            check_column(raw, target)
            raw = raw.dropna(subset=target) if drop_missing else raw
            raw = raw if id is None else raw.set_axis(row_ids(raw, id))
            return cls(file, target, raw, from_function(problem, raw, target), None, id, options)
        table = understood(
            raw, target, text=text, image=image, category=category, number=number, date=date, drop=drop, id=id,
            folder=path.parent, drop_missing=drop_missing, plain=model is not None,
            filled=model is None and booster is None and not plain,
        )  # fmt: skip
        raw = table.rows if id is None else table.rows.assign(**{id: table.rows.index})[list(raw.columns)]
        for note in table.notes:
            tell(note, always=True)
        if plain:
            made, complete = plain_model(table)
            raw = raw.loc[complete]
        elif model is None:
            made = fitted_here(table, path.parent, booster)
        elif model.suffix.lower() in NATIVE:
            made = from_native(model, raw, table)
        else:
            made = from_skops(model, trust, raw, table)
        return cls(file, target, raw, made, table, id, options)

    @property
    def path(self) -> Path:
        """The training file."""
        return self.file.path

    @property
    def hash(self) -> str:
        """What tells whether rows are those that they were: the file's hash, and how many of its rows are left out."""
        out = len(self.file.table) - len(self.raw)
        return f"{self.file.hash} without {out} rows" if out else self.file.hash

    @property
    def places(self) -> Int[np.ndarray, " n"]:
        """The places of the rows in their file (n,), counted from 0; rows without a target may be left out of them."""
        table = self.file.table
        return (table.index if self.id is None else row_ids(table, self.id)).get_indexer(self.raw.index)

    @property
    def heading(self) -> str:
        """What stands above the names of the rows in a table: the column of ids, or "row"."""
        return self.id or "row"

    @property
    def linear_problem(self) -> LinearModel:
        """The linear problem that the model's training solved. Raises FileError for models that are not linear."""
        model = self.model.influence.problem.linear
        if model is None:
            raise FileError("this is answered for linear models only")
        return model

    def row(self, row: str, test: Path | None = None) -> pd.Series:
        """The row that is asked about, as it stands in its file. Raises FileError where there is none."""
        return self.one_row(row, test).iloc[0]

    def one_row(self, row: str, test: Path | None = None) -> pd.DataFrame:
        """The row that is asked about, as a table of one row; it may have been left out for want of a target.

        Raises FileError where there is none.
        """
        raw = self._asked_about(test)
        if test is None and self.table is not None:
            raw = pd.concat([raw, self.table.unlabelled])
        return raw.loc[[row_label(raw, row)]]

    def batch(self, test: Path | None = None, *, row: str | None = None, where: str | None = None) -> Batch:
        """The rows that are asked about, as a batch of the model's: inputs and targets.

        Args:
            test: The file of the rows; otherwise the training file.
            row: The row (or id) of one of them.
            where: A condition that they fulfil, as pandas queries say it.

        Raises:
            FileError: There is no such row, or the condition cannot be used or holds of none.
        """
        raw = self.asked_rows(test, where=where)
        if row is not None:
            raw = raw.loc[[row_label(raw, row)]]
        return self.model.batches(raw, self.folder(test))

    def asked_rows(self, test: Path | None = None, *, where: str | None = None) -> pd.DataFrame:
        """The rows that are asked about, as they stand in their file.

        Args:
            test: The file of the rows; otherwise the training file.
            where: A condition that they fulfil, as pandas queries say it.

        Raises:
            FileError: The condition cannot be used or holds of none.
        """
        raw = self._asked_about(test)
        return raw if where is None else raw.loc[fulfilling(raw, where)]

    def drawn(self, count: int, test: Path | None = None, *, seed: int = 0) -> Batch:
        """Some rows of the file of those asked about, drawn at random, or all of them where there are no more.

        Args:
            count: How many.
            test: The file of the rows; otherwise the training file.
            seed: The seed of the draw.
        """
        raw = self._asked_about(test)
        rows = raw.sample(min(count, len(raw)), random_state=seed)
        return self.model.batches(rows, self.folder(test))

    def folder(self, test: Path | None = None) -> Path:
        """The folder that the images of the rows asked about are in: that of their file."""
        return (test or self.path).resolve().parent

    def column(self, name: str) -> pd.Series:
        """A column of the training file as words (n,), for groups; a missing value is a group of its own."""
        return as_groups(self.raw, name)

    def rows(self, where: str) -> list[int]:
        """The places, counted from 0, of the training rows that fulfil a condition.

        Raises FileError where the condition cannot be used, holds of no row, or holds of all of them.
        """
        found = np.flatnonzero(fulfilling(self.raw, where)).tolist()
        if len(found) == len(self.raw):
            raise FileError(f"{where!r} holds of all {len(found):,} rows: leave some to learn from")
        return found

    def _asked_about(self, test: Path | None) -> pd.DataFrame:
        """The table that the rows asked about are in, indexed by their ids."""
        if test is None:
            return self.raw
        raw = opened(test, self.options).table
        raw = raw if self.table is None else self.table.read(raw)
        return raw.set_index(self.id) if self.id is not None and self.id in raw.columns else raw


def as_groups(table: pd.DataFrame, name: str) -> pd.Series:
    """A column of a table as words, for groups; a missing value is a group of its own.

    Raises FileError where there is no such column.

    >>> as_groups(pd.DataFrame({"town": ["north", None]}), "town").tolist()
    ['north', '(missing)']
    """
    check_column(table, name)
    return table[name].map(str, na_action="ignore").fillna("(missing)")
