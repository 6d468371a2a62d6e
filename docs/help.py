"""Puts each command's own help into the page on the command line when the site is built."""

from __future__ import annotations

from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from upweight.cli import app


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls for every page."""
    if "<!-- help -->" not in markdown:
        return markdown
    commands = [[], *([name] for name in get_command(app).commands)]  # type: ignore[attr-defined]
    parts = []
    for words in commands:
        shown = (
            CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "100"}, prog_name="upweight").output
        )
        parts.append(f"## upweight {' '.join(words)}\n\n```text\n{shown.strip()}\n```\n")
    return markdown.replace("<!-- help -->", "\n".join(parts))
