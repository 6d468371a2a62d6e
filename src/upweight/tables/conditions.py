"""Which rows of a table are meant: one row by its name, or all of which a condition holds."""

from __future__ import annotations

import ast
import re
from collections.abc import Hashable

import numpy as np
import pandas as pd
from jaxtyping import Bool

from .reading import FileError, check_column

QUOTED = re.compile(r"""'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*"|`(?P<name>[^`]*)`""")
"""Texts in quotes, and names of columns in backticks."""
ALLOWED = (
    ast.Expression, ast.BoolOp, ast.boolop, ast.BinOp, ast.UnaryOp, ast.unaryop, ast.Compare, ast.cmpop, ast.Name,
    ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow,
    ast.BitAnd, ast.BitOr,
)  # fmt: skip
"""What a condition may consist of: comparisons of columns and values, and calculations with them."""


def row_label(table: pd.DataFrame, row: str) -> Hashable:
    """The label in a table's index of the row that a person means: the word itself, or the number that it is.

    Raises FileError, with the first and the last row's names, where there is no such row.

    >>> row_label(pd.DataFrame({"age": [31, 52]}), "1")
    1
    >>> row_label(pd.DataFrame({"age": [31, 52]}, index=["ann", "bob"]), "bob")
    'bob'
    """
    for label in (row, *([int(row)] if row.lstrip("-").isdigit() else [])):
        if label in table.index:
            return label
    if len(table) == 0:
        raise FileError("no row is left to ask about")
    raise FileError(f"no row {row!r}; they go from {table.index[0]} to {table.index[-1]}")


def fulfilling(table: pd.DataFrame, condition: str) -> Bool[np.ndarray, " n"]:
    """Whether a condition holds of each row of a table: True or False, (n,).

    The condition is the user's own, as pandas queries say it. It sees the columns and nothing else of the program, and
    compares and calculates only: nothing is called, no attribute is read.

    Raises FileError for conditions that cannot be understood, that do more than that, that are not true or false of
    each row, or that no row fulfils.

    >>> fulfilling(
    ...     pd.DataFrame({"age": [31, 52], "town": ["north", "south"]}), "age > 40 and town == 'south'"
    ... )
    array([False,  True])
    """
    plain, columns = _without_backticks(condition)
    try:
        _check(plain, table, {new: old for old, new in columns.items()})
        named = table.rename(columns=columns)
        found = named.eval(plain, engine="python", parser="pandas", local_dict={}, global_dict={})
    except Exception as error:  # pandas raises whatever the parser, the operator or a lookup does
        raise FileError(f"the condition {condition!r} cannot be understood: {error}") from error
    mask = np.asarray(found)
    if mask.dtype != bool or mask.shape != (len(table),):
        raise FileError(f"the condition {condition!r} is not true or false of each row")
    if not mask.any():
        raise FileError(f"no row fulfils {condition!r}")
    return mask


def _without_backticks(condition: str) -> tuple[str, dict[str, str]]:
    """The condition with plain names for the columns in backticks, and these names by the columns.

    What is checked is then word for word what pandas evaluates, and Python's own syntax.
    """
    columns: dict[str, str] = {}

    def replaced(part: re.Match[str]) -> str:
        name = part["name"]
        return part[0] if name is None else columns.setdefault(name, f"column_in_backticks_{len(columns)}")

    return QUOTED.sub(replaced, condition.strip()), columns


def _parsed(condition: str, table: pd.DataFrame) -> ast.Expression:
    """The condition as Python reads it. Raises SyntaxError, with what to write for a column whose name is no word."""
    try:
        return ast.parse(condition, mode="eval")
    except SyntaxError as error:
        bare = QUOTED.sub("", condition)  # texts in quotes name no column
        name = max((c for c in map(str, table) if not c.isidentifier() and c in bare), key=len, default=None)
        hint = "" if name is None else f": write `{name}`, in backticks, for the column"
        raise SyntaxError(f"{error.msg}{hint}") from error


def _check(condition: str, table: pd.DataFrame, quoted: dict[str, str]) -> None:
    """Raise SyntaxError or FileError for a condition that is no comparison of a table's columns and values.

    Args:
        condition: Words without backticks around names.
        table: The table.
        quoted: The names of columns that stood in backticks, by those that stand for them in the condition.
    """
    if (
        len(condition.splitlines()) > 1 or "`" in condition
    ):  # pandas would read these otherwise than Python does
        raise SyntaxError("write it in one line, and no backtick but around a column's name")
    for node in ast.walk(_parsed(condition, table)):
        if isinstance(node, ast.Name):
            if node.id != "index":
                check_column(table, quoted.get(node.id, node.id))
        elif not isinstance(node, ALLOWED):
            part = ast.get_source_segment(condition, node) or type(node).__name__
            hint = f": write `{part}`, in backticks, for the column" if part in table.columns else ""
            raise SyntaxError(
                f"it compares columns and values, by == != < <= > >= in and or not + - * /, and {part!r} is something "
                f"else{hint}"
            )
