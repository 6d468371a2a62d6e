"""The lowest versions that the installed `upweight` allows, as constraints for pip: `make lowest` tests with them.

python -m tests.lowest review vision       the core, and what two extras bring
python -m tests.lowest review torch=2.13.0 another version of one of them
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import requires

LINE = re.compile(r"(?P<name>[\w.-]+).*>=(?P<lowest>[\w.]+)[^;]*(; extra == ['\"](?P<extra>[\w-]+)['\"])?$")
"""A requirement as the metadata of a package have it: a name, its lowest version, the extra that it belongs to."""


def lowest(lines: Sequence[str], extras: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The name and the lowest version of what the core and some extras require; `lines` are all requirements.

    >>> dict(lowest(["a<3,>=1.2", "b[c]>=2; extra == 'x'", "d>=4; extra == 'y'"], ["x"]))
    {'a': '1.2', 'b': '2'}
    """
    for match in filter(None, map(LINE.match, lines)):
        if match["extra"] in (None, *extras):
            yield match["name"], match["lowest"]


def main(words: Sequence[str]) -> None:
    """Print the constraints."""
    instead = dict(word.split("=") for word in words if "=" in word)
    for name, version in lowest(requires("upweight") or [], words):
        print(f"{name}=={instead.get(name, version)}")


if __name__ == "__main__":
    main(sys.argv[1:])
