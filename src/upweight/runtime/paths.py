"""Files that a user names: whether they are there, and which one may be meant. This loads nothing that is slow."""

from __future__ import annotations

import difflib
from pathlib import Path

import xxhash

PART = 1 << 24
"""Bytes of a file that are hashed at once."""


def not_there(path: Path) -> str | None:
    """What to say where there is no such file, with closely named neighbours; None where it is there.

    >>> not_there(Path("data.csvv"))
    'data.csvv: no such file'
    """
    if path.is_file():
        return None
    beside = [p.name for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, 3)
    return f"{path}: no such file" + (f"; did you mean {', '.join(close)}?" if close else "")


def file_hash(path: Path) -> str:
    """A hash of a file's bytes, which tells whether it is the file that decisions were taken about."""
    found = xxhash.xxh3_128()
    with path.open("rb") as content:
        while part := content.read(PART):
            found.update(part)
    return found.hexdigest()
