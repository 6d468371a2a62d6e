"""Progress with an ETA on anything that may take over two seconds; silent when the output is not a terminal.

Of several processes the first one speaks.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .distributed import rank

Item = TypeVar("Item")
PATIENCE = 2.0


def tell(text: str) -> None:
    """A line on standard error, on a terminal only."""
    console = Console(stderr=True)
    if console.is_terminal and rank() == 0:
        console.print(text, style="dim", highlight=False, markup=False)


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """Iterate over `items`; after two seconds show a bar, the count and the time left on standard error.

    >>> list(track([1, 2], "counting", 2))
    [1, 2]
    """
    console = Console(stderr=True)
    if not console.is_terminal or rank() > 0:
        yield from items
        return
    began = time.monotonic()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    task = bar.add_task(what, total=total)
    shown = False
    try:
        for item in items:
            yield item
            bar.advance(task)
            if not shown and time.monotonic() - began > PATIENCE:
                bar.start()
                shown = True
    finally:
        if shown:
            bar.stop()
