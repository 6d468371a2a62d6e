"""The cells of a column, read: markers of missing values, amounts, decimal commas, dates, truth values."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

MISSING = frozenset(
    ["", "na", "n/a", "n.a.", "#n/a", "<na>", "nan", "nat", "null", "none", "nil", "?", "-", "--", ".", ".."]
)
"""What stands for a missing value in a column of numbers, dates or labels, in small letters."""
SAMPLE = 200
"""Different words of a column from which its units and its format of dates are guessed."""
LONGEST = 10
"""A marker has no more characters than this, spaces around it included."""
LIKELY = 0.25
"""A sample of a column shows numbers or dates where so many cells are read for one that is not."""
MOSTLY = 0.5
"""A column of which more than this share is read is meant to be so, and a cell that is not is odd."""
RECURRING, MARKERS = 3, 5
"""Odd cells that are there so often in the mean, of so many kinds, are codes; fewer kinds are words for "missing"."""

_UNIT = "[$€£¥₹]|USD|EUR|GBP|JPY|CHF|CNY|INR|AUD|CAD"
_AMOUNT = re.compile(
    rf"(?P<open>\()?(?P<sign>[-+\u2212])?\s*(?P<before>{_UNIT})?\s*(?P<sign2>[-+\u2212])?"
    rf"(?P<number>\d[\d.,'\s]*(?:e[-+]?\d+)?|\.\d+)\s*(?P<after>%|{_UNIT})?(?(open)\))",
    re.IGNORECASE,
)
_GROUPED = {
    ".": re.compile(r"(\d+|\d{1,3}([,'\s]\d{3})+)?(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE),
    ",": re.compile(r"(\d+|\d{1,3}([.'\s]\d{3})+)?(,\d*)?(e[-+]?\d+)?", re.IGNORECASE),
}
"""How digits are written around a decimal point, and around a decimal comma."""
_DATES = (
    "ISO8601", "%Y/%m/%d", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%d.%m.%Y", "%d.%m.%y", "%d-%m-%Y",
    "%b %d %Y", "%b %d, %Y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%B %d %Y", "%B %d, %Y", "%d %B %Y", "%b %Y", "%B %Y",
)  # fmt: skip
_MONTH = "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"
_DATED = rf"\d{{1,4}}[-/.]\d{{1,2}}[-/.]\d{{1,4}}|\d{{4}}-\d{{2}}|{_MONTH}[a-z]*\.? \d|\d{{1,2}}[- ]{_MONTH}"
"""What a date begins with in any of these formats."""
_TIMES = (" %H:%M", " %H:%M:%S")
_DAY = pd.Timedelta(days=1)


class Reader(ABC):
    """How the words of a column become values.

    Attributes:
        what: What such a word is.
        decimal: What stands before the fraction of an amount: "." or ","; "" for other words.
    """

    what: ClassVar[str]
    decimal: str = ""

    @abstractmethod
    def values(self, words: pd.Series) -> pd.Series:
        """The values of different words (k,), missing where a word cannot be read."""

    @abstractmethod
    def told(self, word: str) -> str:
        """What a note says about the column, with one of its words as an example; "" where nothing is to be said."""


@dataclass(frozen=True)
class Plain(Reader):
    """Words that are numbers as programs write them."""

    what = "number"

    def values(self, words: pd.Series) -> pd.Series:
        return pd.to_numeric(words.str.strip(), errors="coerce").astype(np.float64)

    def told(self, word: str) -> str:
        return ""


@dataclass(frozen=True)
class Amounts(Reader):
    """Words that are numbers as people write them, perhaps with thousands in groups and a unit.

    Attributes:
        decimal: What stands before the fraction: "." or ",".
        unit: What stands before or after the number in every cell: a currency or "%".
    """

    what = "number"
    decimal: str = "."
    unit: str = ""

    def values(self, words: pd.Series) -> pd.Series:
        return words.map(self._value).astype(np.float64)

    def _value(self, word: str) -> float:
        found = _AMOUNT.fullmatch(word.strip())
        if found is None or _unit(found) != self.unit:
            return np.nan
        digits = found["number"].strip()
        if not _GROUPED[self.decimal].fullmatch(digits):
            return np.nan
        digits = re.sub(r"[,'\s]" if self.decimal == "." else r"[.'\s]", "", digits).replace(",", ".")
        negative = (
            bool(found["open"]) or "-" in (sign := f"{found['sign']}{found['sign2']}") or "\u2212" in sign
        )
        return -float(digits) if negative else float(digits)

    def told(self, word: str) -> str:
        return f"read as numbers, {word!r} as {self._value(word):g}"


@dataclass(frozen=True)
class Dates(Reader):
    """Words that are dates of one format, as pandas writes formats. Dates become days since the start of 1970."""

    what = "date"
    format: str

    def values(self, words: pd.Series) -> pd.Series:
        found = pd.to_datetime(words.str.strip(), format=self.format, errors="coerce", utc=True)
        return found.dt.tz_localize(None)

    def told(self, word: str) -> str:
        day = self.values(pd.Series([word])).iloc[0]
        return f"read as dates, {word!r} as {day:%Y-%m-%d}, and taken as days since the start of 1970"


@dataclass(frozen=True)
class Truths(Reader):
    """Words that are true or false, in letters of any size."""

    what = "truth value"

    def values(self, words: pd.Series) -> pd.Series:
        return words.str.strip().str.lower().map({"true": True, "false": False}).astype(object)

    def told(self, word: str) -> str:
        return ""


@dataclass(frozen=True)
class Labels(Reader):
    """Words as they are: nothing but what stands for a missing value is looked for."""

    what = "label"

    def values(self, words: pd.Series) -> pd.Series:
        return words.astype(object)

    def told(self, word: str) -> str:
        return ""


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a column as a reader reads them.

    Attributes:
        reader: The reader.
        values: The values (n,), with the column's index.
        marks: How often each word stands for a missing value.
        broken: The cells that hold something else, as they are written, with their rows.
        example: A word that was read, the longest one.
    """

    reader: Reader
    values: pd.Series
    marks: dict[str, int]
    broken: pd.Series
    example: str = ""

    @property
    def codes(self) -> bool:
        """Whether these are codes, some of which are written as numbers (401, V58, E11): all of them recur."""
        words, values = self.broken.nunique(), self.values.nunique()
        recur = len(self.broken) >= RECURRING * words and self.values.count() >= RECURRING * values
        return bool(words >= MARKERS and recur)

    @property
    def odd(self) -> str:
        """The cells that hold something else, in words: how many of how many, and the first with its row."""
        n, first = int(self.values.notna().sum()) + len(self.broken), self.broken.iloc[0]
        are = f"is no {self.reader.what}" if len(self.broken) == 1 else f"are no {self.reader.what}s"
        return f"{len(self.broken):,} of its {n:,} cells {are}, first {first!r} in row {self.broken.index[0]}"

    @property
    def written(self) -> str:
        """How missing values are written, with their numbers, for a note: "" where all are empty cells."""
        told = [f"{count:,} written {word!r}" for word, count in self.marks.items() if word.strip()]
        return f" ({', '.join(told)})" if told else ""


def has_words(column: pd.Series) -> bool:
    """Whether a column holds words, or objects of which some may be words, and no numbers, dates or categories."""
    return pd.api.types.is_object_dtype(column) or pd.api.types.is_string_dtype(column)


def nested(column: pd.Series) -> bool:
    """Whether cells hold lists, mappings or arrays, as JSON and Parquet files may."""
    if not pd.api.types.is_object_dtype(column):
        return isinstance(column.dtype, pd.ArrowDtype) and pd.types.is_nested(column.dtype.pyarrow_dtype)
    return bool(column.map(lambda value: isinstance(value, (list, dict, tuple, set, np.ndarray))).any())


def _words(column: pd.Series) -> pd.Series:
    """The cells of a column that are not empty, as words."""
    present = column.dropna()
    return present if isinstance(present.dtype, pd.StringDtype) else present.map(str)


def marks(column: pd.Series) -> set[str]:
    """The different words of a column that stand for a missing value; a minus beside a plus is a sign."""
    different = _words(column).unique()
    found = {word for word in different if len(word) <= LONGEST and word.strip().lower() in MISSING}
    return {word for word in found if word.strip() != "-"} if "+" in different else found


def read_by(reader: Reader, column: pd.Series) -> Cells:
    """The cells of a column as a reader reads them, each different word once."""
    words, marked = _words(column), marks(column)
    rest = pd.Series([word for word in words.unique() if word not in marked], dtype=object)
    known, there = reader.values(rest), column.notna().to_numpy()
    cells = np.full(len(column), np.nan, dtype=object)
    cells[there] = words.map(dict(zip(rest, known, strict=True))).to_numpy(object)
    values = pd.Series(cells, column.index, dtype=object, name=column.name)
    unread = words[values[there].isna().to_numpy()]
    return Cells(
        reader,
        values.astype(known.dtype if len(rest) else np.float64),
        unread[unread.isin(marked)].value_counts().to_dict(),
        unread[~unread.isin(marked)],
        str(max(rest[known.notna()], key=len, default="")),
    )


def may_be_read(column: pd.Series, *, plain: bool = False) -> bool:
    """Whether a sample of a column's cells shows numbers, truth values or dates at all: most words are none of them.

    Args:
        column: The column (n,) as its file has it.
        plain: Whether nothing but numbers is looked for that a program wrote.
    """
    if not has_words(column) or nested(column):
        return False
    present = column.dropna()
    best = _best(present.iloc[:: max(1, len(present) // SAMPLE)], plain=plain)
    return int(best.values.notna().sum()) >= LIKELY * len(best.broken)


def cells_of(column: pd.Series, *, comma: bool = False, plain: bool = False) -> Cells | None:
    """The cells of a column of words that are numbers, truth values or dates, all of them or most; None for others.

    Args:
        column: The column (n,) as its file has it.
        comma: Whether a decimal comma is the likelier reading of "1,234".
        plain: Whether nothing but numbers is looked for that a program wrote, and only where all are.
    """
    best = _best(column, comma=comma, plain=plain)
    read, broken = int(best.values.notna().sum()), len(best.broken)
    return best if read > MOSTLY * (read + broken) and not (plain and broken) else None


def _best(column: pd.Series, *, comma: bool = False, plain: bool = False) -> Cells:
    """The cells of a column by the reader that reads most of them."""
    found = [read_numbers(column, comma=comma, plain=plain)]
    if not plain and found[0].broken.size:
        found += [read_by(Truths(), column), read_dates(column)]
    return min(found, key=lambda cells: len(cells.broken))


def read_numbers(column: pd.Series, *, comma: bool = False, plain: bool = False) -> Cells:
    """The cells of a column as numbers, in the spelling that reads most of them.

    Args:
        column: Words (n,), or objects of which some are words.
        comma: Whether a decimal comma is the likelier reading of "1,234".
        plain: Whether numbers are looked for as programs write them only.
    """
    found = read_by(Plain(), column)
    if plain or not len(found.broken):
        return found
    amounts = [match for word in found.broken.unique()[:SAMPLE] if (match := _AMOUNT.fullmatch(word.strip()))]
    units = pd.Series([_unit(match) for match in amounts], dtype=object).value_counts().index[:1]
    spellings = [Amounts(decimal, unit) for unit in units for decimal in (",." if comma else ".,")]
    return min(
        [found, *(read_by(spelling, column) for spelling in spellings)], key=lambda cells: len(cells.broken)
    )


def decimal_comma(table: pd.DataFrame) -> bool:
    """Whether a table's amounts show a decimal comma and no decimal point: "3,75" is no number in thousands."""
    shown = set()
    for _, column in table.items():
        if has_words(column):
            readers = {read_numbers(column, comma=comma).reader for comma in (False, True)}
            shown |= {reader.decimal for reader in readers} if len(readers) == 1 else set()
        elif pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
            shown.add(".")
    return shown - {""} == {","}


def read_dates(column: pd.Series, more: tuple[str, ...] = ()) -> Cells:
    """The cells of a column as dates, in the format that reads most of them; where two do, months come first.

    Args:
        column: Words (n,), or whole numbers.
        more: Formats that are looked for first.
    """
    sample = _words(column).drop_duplicates().head(SAMPLE)
    first = read_by(Dates(_DATES[0]), column)
    if not more and (first.broken.empty or sample.str.strip().str.match(_DATED).mean() <= MOSTLY):
        return first
    formats = [*more, *_DATES, *(f"{day}{time}" for day in _DATES[1:] for time in _TIMES)]
    likely = sorted(formats, key=lambda format: len(read_by(Dates(format), sample).broken))[:2]
    return min((read_by(Dates(format), column) for format in likely), key=lambda cells: len(cells.broken))


def days(column: pd.Series) -> pd.Series:
    """Dates as days since the start of 1970, durations as days: float64, missing where they are."""
    if pd.api.types.is_timedelta64_dtype(column):
        return (column / _DAY).astype(np.float64)
    dates = pd.to_datetime(column, utc=True).dt.tz_localize(None)
    return ((dates - pd.Timestamp(0)) / _DAY).astype(np.float64)


def _unit(found: re.Match[str]) -> str:
    return (found["before"] or "") + (found["after"] or "")
