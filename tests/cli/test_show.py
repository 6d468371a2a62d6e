"""Tables on a terminal."""

import io

import pandas as pd
from rich.console import Console

from upweight.cli.show import for_people


def test_cells_cannot_steer_the_terminal():
    line = pd.DataFrame({"effect": [0.5], "loss": [0.5], "said": ["[bold]\x1b[31mred" + "x" * 100]})
    console = Console(file=io.StringIO(), width=200)
    console.print(for_people(line, "title"))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\x1b" not in shown
    for words in ("+0.5", " 0.5", "[bold] [31mred", "…"):
        assert words in shown
