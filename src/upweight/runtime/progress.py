"""What is said while something runs, on standard error: lines, and on a terminal spinners and bars.

Where several processes run, only the first one speaks; inside `quiet` nobody does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from .process import rank
from .terminal import console, plain, say, styled

Item = TypeVar("Item")
PATIENCE = 2.0
"""Seconds after which a bar is shown."""
_silent = ContextVar("silent", default=False)


@contextmanager
def quiet(wanted: bool = True) -> Iterator[None]:
    """Nothing is said inside, neither lines nor bars, where that is `wanted`.

    >>> with quiet():
    ...     tell("a note", always=True)
    """
    token = _silent.set(wanted or _silent.get())
    try:
        yield
    finally:
        _silent.reset(token)


def speaks() -> bool:
    """Whether this process says anything at all: the first one does, unless it is told to be quiet."""
    return rank() == 0 and not _silent.get()


def tell(text: str, *, always: bool = False) -> None:
    """A plain line is written to standard error, by the first of several processes only.

    What is going on is told on a terminal only: programs that read our output and notebooks are not disturbed. What
    changes an answer or judges it is told `always`. The text is written as it is, without markup.

    >>> tell("nothing here: a test has no terminal")
    """
    if speaks() and (always or console(err=True).is_terminal):
        say(text, err=True)


@contextmanager
def phase(text: str) -> Iterator[None]:
    """A spinner beside `text` turns while something slow that has no bar of its own runs, on a terminal only.

    >>> with phase("adding"):
    ...     1 + 1
    2
    """
    terminal = console(err=True)
    if not terminal.is_terminal or not speaks():
        yield
        return
    with terminal.status(styled(text)):
        yield


def track(items: Iterable[Item], what: str, total: int | None = None) -> Iterator[Item]:
    """The items are passed on one by one; after two seconds a bar shows the count and the time that is left.

    Args:
        items: What is iterated over.
        what: What is done with them, in a word or two, beside the bar.
        total: How many there are, where that is known.

    Returns:
        An iterator over the same items; the bar goes away when it ends, also by an exception.

    >>> list(track([1, 2], "counting", 2))
    [1, 2]
    """
    terminal = console(err=True)
    if not terminal.is_terminal or not speaks():
        yield from items
        return
    began = time.monotonic()
    bar = _bar(MofNCompleteColumn())
    task = bar.add_task(plain(what), total=total)
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


@contextmanager
def gauge(what: str) -> Iterator[Callable[[float], None]]:
    """A bar for work of which only the share that is done is known; after two seconds it shows that and the time left.

    Args:
        what: What is done, in a word or two, beside the bar.

    Returns:
        A context that gives a function: call it with the share done so far, from 0 to 1. What goes back is not shown.

    >>> with gauge("searching") as reached:
    ...     reached(0.5)
    """
    if not console(err=True).is_terminal or not speaks():
        yield lambda share: None
        return
    began, bar = time.monotonic(), _bar(TaskProgressColumn())
    task = bar.add_task(plain(what), total=1.0)

    def reached(share: float) -> None:
        bar.update(task, completed=max(bar.tasks[0].completed, min(share, 1.0)))
        if not bar.live.is_started and time.monotonic() - began > PATIENCE:
            bar.start()

    try:
        yield reached
    finally:
        if bar.live.is_started:
            bar.stop()


def _bar(done: ProgressColumn) -> Progress:
    """A bar that goes away when it ends; `done` shows how much is done."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        done,
        TimeElapsedColumn(),
        TextColumn("ETA", markup=False),
        TimeRemainingColumn(),
        console=console(err=True),
        transient=True,
    )
