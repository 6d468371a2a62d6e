"""How far a pass through a run has come, on disk: what was cut off goes on from there."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float

from ..runtime import tensor_files
from ..types import Tensor
from .reverse import Cotangents


class Begun(NamedTuple):
    """A pass backwards with `left` steps to go: the derivatives in what the last of them leaves, and what was found."""

    left: int
    held: Cotangents
    total: Float[Tensor, "m n"]


class Journal:
    """One file that holds how far a pass has come, written whole; no file where `path` is None.

    Args:
        path: the file; its name tells which pass it is.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)

    def read(self, fresh: Begun) -> Begun:
        """How far the pass had come, or `fresh` where there is nothing. Raises ValueError for a damaged file."""
        if self.path is None or not self.path.exists():
            return fresh
        tensors, words = tensor_files.read(self.path, "the journal of a pass", "left", "theta", "total")
        like = fresh.held.theta
        memory = tuple(tensors[f"memory{i}"].to(like) for i in range(len(fresh.held.memory)))
        buffers = {name: tensors[f"buffer {name}"].to(like) for name in fresh.held.buffers}
        return Begun(words["left"], Cotangents(tensors["theta"].to(like), memory, buffers), tensors["total"])

    def write(self, begun: Begun) -> None:
        """Keep how far the pass has come."""
        if self.path is not None:
            memory = {f"memory{i}": one for i, one in enumerate(begun.held.memory)}
            buffers = {f"buffer {name}": one for name, one in begun.held.buffers.items()}
            tensors = {"theta": begun.held.theta, "total": begun.total, **memory, **buffers}
            tensor_files.write_own(self.path, tensors, {"left": begun.left})
