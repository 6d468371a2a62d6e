"""JSON files of rows: lists of objects, also inside another object, and an object a line.

What is nested is spread over columns whose names are paths, as in `annotations.0.result.0.value.choices.0`: exports of
label tools (Label Studio, Argilla, FiftyOne) are read like any other file. Written again, only the text of labels
changes.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

import pandas as pd

from .formats import COMPRESSED, FileError, Format, Source, unpacked

SPREAD = 16
"""Lists with more elements than this stay in one cell."""
_DECODER = json.JSONDecoder()
_SPACE = " \t\r\n"
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Json(Format):
    """A JSON file.

    Attributes:
        packed: The suffix of a packed file, or "".
        lines: Whether it is known to have one row a line; otherwise that is told by its text.
    """

    packed: str = ""
    lines: bool = False

    def read(self, source: Source) -> tuple[pd.DataFrame, tuple[str, ...]]:
        text = _text(source, self.packed)
        rows, where = _rows(text, self.lines)
        cells = [dict(_cells(_DECODER.raw_decode(text, start)[0])) for start, _ in rows]
        table = pd.DataFrame([{_name(keys): value for keys, value in row.items()} for row in cells])
        return table, (f"the rows are the elements of {where!r}",) if where else ()

    def edited(self, content: bytes, target: str, rows: pd.Series, *, exact: bool) -> bytes:
        text = _text(BytesIO(content), self.packed)
        spans, _ = _rows(text, self.lines)
        made = [text[: spans[0][0]]]
        for place, (row, source) in enumerate(rows.items()):
            start, end = spans[row]
            if place:
                made.append(text[spans[row - 1][1] : start])
            if source == row:
                made.append(text[start:end])
            else:
                old, new = (_label(text, spans[which][0], target) for which in (row, source))
                made += [text[start : old[0]], text[new[0] : new[1]], text[old[1] : end]]
        made.append(text[spans[-1][1] :])
        found = "".join(made).encode("utf-8-sig" if content.startswith(BOM_UTF8) else "utf-8")
        return COMPRESSED[self.packed][1](found) if self.packed else found


def _text(source: Source, packed: str) -> str:
    with unpacked(source, packed) as file:
        return file.read().decode("utf-8-sig")


def _skip(text: str, at: int) -> int:
    """The place of the next character that is no space."""
    while at < len(text) and text[at] in _SPACE:
        at += 1
    return at


def _rows(text: str, lines: bool) -> tuple[list[tuple[int, int]], str]:
    """Where each row's object begins and ends, and the name of the list that they are in, if it has one."""
    values, at = [], _skip(text, 0)
    while at < len(text):
        _, end = _DECODER.raw_decode(text, at)
        values.append((at, end))
        at = _skip(text, end)
    where = ""
    if len(values) == 1 and not lines:
        first = values[0][0]
        if text[first] == "{":
            lists = [(key, start) for key, start, _ in _children(text, first) if text[start] == "["]
            if len(lists) != 1:
                raise FileError(
                    "its one object holds no list of rows, or several: write a list of objects, one a row"
                )
            where, first = str(lists[0][0]), lists[0][1]
        values = [(start, end) for _, start, end in _children(text, first)] if text[first] == "[" else values
    if any(text[start] != "{" for start, _ in values):
        raise FileError("not every row is an object with names and values")
    return values, where


def _children(text: str, at: int) -> Iterator[tuple[str | int, int, int]]:
    """The members of the object, or the elements of the list, that begins at a place: key, first place, end."""
    named, count, at = text[at] == "{", 0, _skip(text, at + 1)
    while text[at] not in "}]":
        key: str | int = count
        if named:
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)  # the colon
        _, end = _DECODER.raw_decode(text, at)
        yield key, at, end
        count, at = count + 1, _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _cells(value: object, keys: Keys = ()) -> Iterator[tuple[Keys, object]]:
    """What an object holds, by the keys that lead there; long lists stay whole, and what is empty is nothing."""
    if isinstance(value, dict):
        children = list(value.items())
    elif isinstance(value, list) and len(value) <= SPREAD:
        children = list(enumerate(value))
    else:
        yield keys, value
        return
    for key, child in children:
        yield from _cells(child, (*keys, key))


def _name(keys: Keys) -> str:
    return ".".join(map(str, keys))


def _label(text: str, start: int, target: str) -> tuple[int, int]:
    """Where the text of a row's label begins and ends."""
    keys = next(keys for keys, _ in _cells(_DECODER.raw_decode(text, start)[0]) if _name(keys) == target)
    end = start
    for wanted in keys:
        start, end = next((first, last) for key, first, last in _children(text, start) if key == wanted)
    return start, end
