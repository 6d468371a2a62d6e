"""Files that hold tensors and words, and nothing that runs: one safetensors file, the words as JSON in its header.

Every file carries the number of its format. What another format wrote is refused with a sentence, not misread.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..types import Tensor
from .distributed import rank
from .fingerprint import FORMAT

KEY = "upweight"
"""Where the words stand in the header."""


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
    temporary = Path(f"{path}.part")
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(whole, temporary, metadata={KEY: json.dumps({**words, "format": FORMAT})})
    temporary.replace(path)


def read(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and words of a file that `write` wrote, on the processor; nothing in a file is executed.

    Args:
        path: the file.
        what: what it should be, with its article, for the error.

    Raises:
        ValueError: for a file that is none of ours, is cut off, or is of another format.
        FileNotFoundError: where there is none.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words = json.loads((file.metadata() or {})[KEY])
            check_format(words.pop("format", None), path, what)
            return {name: file.get_tensor(name) for name in file.keys()}, words  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as failure:
        raise ValueError(f"{path} is not {what} of upweight ({failure})") from failure


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
