"""How answers show themselves in a notebook."""

from __future__ import annotations

import html

import pandas as pd


def as_html(*parts: str | pd.DataFrame) -> str:
    """Lines as paragraphs and tables as tables; all text is escaped.

    >>> as_html("a < b")
    '<p>a &lt; b</p>'
    """
    return "".join(
        part.to_html() if isinstance(part, pd.DataFrame) else f"<p>{html.escape(part)}</p>" for part in parts
    )
