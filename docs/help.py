"""What the site takes of the code when it is built: each command's own help, and the examples of docstrings."""

from __future__ import annotations

import re
from typing import Any

import griffe
from typer.main import get_command
from typer.testing import CliRunner

from upweight.cli import app


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with each command's own help in the place of `<!-- help -->`; mkdocs calls this for every page."""
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


class Examples(griffe.Extension):
    """Doctests shown as code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """A docstring's examples become blocks of code; griffe calls this for every function and class."""
        if obj.docstring is not None:
            found = re.sub(
                r"^>>> .*?(?=\n\n|\Z)", r"```pycon\n\g<0>\n```", obj.docstring.value, flags=re.M | re.S
            )
            obj.docstring.value = found
