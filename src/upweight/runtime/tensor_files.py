"""Files that hold tensors and words, and nothing that runs: one safetensors file, the words as JSON in its header.

Every file carries the number of its format and a checksum of all it holds. What another format wrote, and what has
changed since it was written, is refused with a sentence, not misread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..types import Tensor
from .distributed import rank
from .fingerprint import FORMAT, content_hash
from .whole_files import whole

KEY = "upweight"
"""Where checksum and words stand in the header, in one entry: safetensors writes several in any order."""
DIGITS = 32
"""The length of a checksum."""
UNREADABLE = (SafetensorError, KeyError, json.JSONDecodeError, UnicodeDecodeError, AttributeError, TypeError)
"""What reading a file raises that is none of ours, or is damaged."""


def write(path: str | Path, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
    """Write a file at once or not at all; of several processes the first one does, and nobody waits for it.

    Args:
        path: the file; what was there before is replaced when the new file is whole.
        tensors: numbers by name, of any shapes and precisions; those on a GPU come to the processor.
        words: whatever JSON can hold, which `read` gives back beside the tensors.

    Raises:
        OSError: where it cannot be written (a full disk, say); what was there before is still there.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.safetensors", {"scores": torch.ones(2)}, {"sign": "up-weighting"})
    ...     read(f"{folder}/a.safetensors", "a score file")
    ({'scores': tensor([1., 1.])}, {'sign': 'up-weighting'})
    """
    if rank() == 0:
        write_own(path, tensors, words)


def write_own(path: str | Path, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
    """Write a file as `write` does, but by this process, whichever it is: each writes other files.

    Args:
        path: the file, which no other process writes.
        tensors: numbers by name.
        words: whatever JSON can hold.

    Raises:
        OSError: where it cannot be written.
    """
    ours = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    text = json.dumps({**words, "format": FORMAT})
    with whole(path) as part:
        save_file(ours, part, metadata={KEY: checksum(ours, text) + text})


def checksum(tensors: dict[str, Tensor], words: str) -> str:
    """A content hash of the words of a file, and of its tensors with their names, shapes and precisions.

    Args:
        tensors: by name, in any order.
        words: as they stand in the header.

    >>> import torch
    >>> checksum({"a": torch.ones(2)}, "{}") == checksum({"a": torch.ones(2, 1)}, "{}")
    False
    """
    names = sorted(tensors)
    form = [(name, tuple(tensors[name].shape), str(tensors[name].dtype)) for name in names]
    return content_hash([tensors[name] for name in names], f"{words} {form!r}")


def header(file: Any) -> tuple[str, str, dict[str, Any]]:
    """Checksum, words as they are written and words of an open file; no checksum in files of earlier versions.

    Raises KeyError, JSONDecodeError or AttributeError for a file of somebody else's.
    """
    entry = (file.metadata() or {})[KEY]
    found, text = ("", entry) if entry.startswith("{") else (entry[:DIGITS], entry[DIGITS:])
    words = json.loads(text)
    return found, text, dict(words.items())


def read(
    path: str | Path, what: str, *needed: str, checked: bool = False
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and words of a file that `write` wrote, on the processor; nothing in a file is executed.

    Args:
        path: the file.
        what: what it should be, with its article, for the error.
        needed: tensors and words that it must have.
        checked: whether this process has compared the checksum before: tensors are then read when they are used.

    Raises:
        ValueError: for a file that is none of ours, is cut off, is of another format, or is not as it was written.
        FileNotFoundError: where there is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            found, text, words = header(file)
            check_format(words.pop("format", None), path, what)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except UNREADABLE as failure:
        raise ValueError(
            f"{path} is not {what} of upweight, or is damaged: {damage(failure)}; delete it and compute it again"
        ) from failure
    if not found:
        raise ValueError(
            f"{path} was written without a checksum, by an earlier version: what it holds cannot be relied on; delete "
            "it and compute it again"
        )
    if not checked and found != checksum(tensors, text):
        raise ValueError(f"{path} has changed since it was written: delete it and compute it again")
    if missing := [name for name in needed if name not in tensors and name not in words]:
        raise ValueError(f"{path} is not {what} of upweight: it has no {', '.join(missing)}")
    return tensors, words


def damage(failure: Exception) -> str:
    """What is wrong with a file whose header cannot be read, by the error that reading it gave.

    >>> damage(KeyError("upweight"))
    "its header has no entry 'upweight', which all files of upweight have"
    """
    if isinstance(failure, KeyError):
        return f"its header has no entry {failure}, which all files of upweight have"
    if isinstance(failure, SafetensorError):
        return f"it is cut off, or the list of tensors in its header is broken ({failure})"
    return f"the entry {KEY!r} of its header is broken ({failure})"


def check_format(found: int | None, path: str | Path, what: str) -> None:
    """Refuse a file of another format, with what to do: an older file says other things by the same names.

    Args:
        found: the number that the file carries; None for files from before there were numbers.
        path: the file or folder.
        what: what it is, with its article.

    Raises:
        ValueError: where the format is not the one that this version writes and reads.

    >>> check_format(FORMAT, "a.safetensors", "a score file")
    """
    if found != FORMAT:
        other = "an earlier format, without a number" if found is None else f"format {found}"
        raise ValueError(
            f"{path} is {what} of {other}, and this version of upweight reads format {FORMAT}: "
            "delete it and compute it again"
        )
