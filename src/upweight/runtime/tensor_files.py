"""Files that hold tensors and words, and nothing that runs: one safetensors file, the words as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..types import Tensor
from .distributed import rank

KEY = "upweight"


def write(path: str | Path, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
    """Write the file at once or not at all; of several processes the first one does, and nobody waits for it.

    Raises OSError where it cannot be written (a full disk, say); what was there before is still there.
    """
    if rank() == 0:
        write_own(path, tensors, words)


def write_own(path: str | Path, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
    """The same by this process, whichever it is."""
    temporary = Path(f"{path}.part")
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    save_file(whole, temporary, metadata={KEY: json.dumps(words)})
    temporary.replace(path)


def read(path: str | Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `write` wrote. Raises ValueError for any other file, saying that it is not `what`."""
    try:
        with safe_open(path, framework="pt") as file:
            words = json.loads((file.metadata() or {})[KEY])
            return {name: file.get_tensor(name) for name in file.keys()}, words  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as failure:
        raise ValueError(f"{path} is not {what} of upweight ({failure})") from failure
