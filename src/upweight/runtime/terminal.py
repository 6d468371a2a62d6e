"""Where text leaves for a terminal: the one place, so that nothing of a user's data can steer it.

A name or a cell may hold characters that set a terminal's title, fill its clipboard or hide what stands before them;
whoever made the file wrote them, not whoever asks about it.
"""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STEERING = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]"
)
"""Control characters but the end of a line, those that turn the direction of writing, and halves of characters."""


def plain(text: object) -> str:
    r"""What a value says, with a space for each character that a terminal would obey and not show.

    >>> plain("a title\x1b]0;mine\x07 and\ntwo lines")
    'a title ]0;mine  and\ntwo lines'
    """
    return STEERING.sub(" ", str(text))


def styled(text: object) -> Text:
    """A value in one line for tables of rich: neither its characters nor its brackets are taken for orders."""
    from rich.text import Text

    return Text(plain(text).replace("\n", " "))


def say(text: object, *, err: bool = False) -> None:
    r"""Words for people are written to standard output, or to standard error.

    >>> say("found\x1b[2J 3 rows")
    found [2J 3 rows
    """
    print(plain(text), file=sys.stderr if err else sys.stdout, flush=True)


def give(text: str) -> None:
    """Data for programs are written to standard output: as they are, but without steering where it is a terminal."""
    sys.stdout.write(plain(text) if sys.stdout.isatty() else text)


def console(*, err: bool = False) -> Console:
    """The console of rich for tables, spinners and bars; text with brackets is no markup for it."""
    from rich.console import Console

    return Console(stderr=err, markup=False, emoji=False, highlight=False)
