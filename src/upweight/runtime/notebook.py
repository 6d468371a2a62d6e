"""Answers as HTML, which notebooks show in place of plain text."""

from __future__ import annotations

import html

import pandas as pd


def as_html(*parts: str | pd.DataFrame) -> str:
    """The HTML of an answer: lines as paragraphs and tables as tables, in the order in which they are given.

    All text is escaped, so that labels and names of the user's data stay text and run nothing.

    Args:
        parts: each a line of text, or a table with its index.

    >>> as_html("a < b")
    '<p>a &lt; b</p>'
    """
    return "".join(
        part.to_html() if isinstance(part, pd.DataFrame) else f"<p>{html.escape(part)}</p>" for part in parts
    )
