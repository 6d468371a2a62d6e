"""The folder of an index: its words, its curvature, and blocks of gradients, each written whole or not at all.

`index.json` is written last of all: it says which blocks belong to the index, so that what a job was cut off in is not
part of it, and one that appends leaves the index as it was until it is through.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from ..errors import StaleError
from ..runtime.distributed import rank, together
from ..runtime.fingerprint import FORMAT
from ..runtime.tensor_files import check_format, read, write, write_own
from ..runtime.whole_files import remove_unfinished
from ..types import Tensor
from .score_store import write_words

WORDS, BASES = "index.json", "bases.safetensors"
KIND = "an index of gradients"
AGAIN = "run GradientIndex.build again, it makes what is missing"
MAPPED = 512 << 20
"""Bytes of blocks that stay mapped between questions."""
Block: TypeAlias = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and words of a block."""


@dataclass(frozen=True)
class Part:
    """The rows that one call added, in so many blocks: `key` is a content hash of what was kept of them.

    Calls with equal rows have equal keys, by which one that is repeated is told.
    """

    rows: int
    blocks: int
    key: str


@dataclass(frozen=True, eq=False)
class IndexStore:
    """A folder with an index.

    Args:
        folder: where it is.
        words: all that is known of it but numbers; `key` is the content hash of weights, data and settings.
        parts: the rows that were added, in order: those of the build first.
    """

    folder: Path
    words: dict[str, Any]
    parts: tuple[Part, ...]
    checked: set[Path] = field(default_factory=set)
    """The blocks whose checksum this process has compared."""
    mapped: dict[Path, Block] = field(default_factory=dict)
    """Blocks that stay mapped into memory for the next question, up to `MAPPED` bytes."""

    @classmethod
    def found(cls, folder: str | Path) -> IndexStore:
        """The store that is there. Raises ValueError for a folder that has none, or a damaged one."""
        place = Path(folder)
        try:
            words = json.loads((place / WORDS).read_text(encoding="utf-8"))
            if words["kind"] != KIND:
                raise KeyError("kind")
            check_format(words["format"], place, KIND)
            parts = tuple(Part(part["rows"], part["blocks"], part["key"]) for part in words["parts"])
            sizes = [words["rows_per_block"], *(size for part in parts for size in (part.rows, part.blocks))]
            if not all(type(size) is int and size >= 1 for size in sizes):
                raise TypeError(f"sizes are {sizes}")
        except FileNotFoundError as failure:
            raise ValueError(
                f"{folder} is not {KIND}, it holds no {WORDS}: GradientIndex.build makes one, on the command line "
                f"`upweight index ... --index {folder}`"
            ) from failure
        except OSError as failure:
            raise ValueError(f"{folder} is not {KIND} of upweight ({failure})") from failure
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as failure:
            raise ValueError(
                f"{folder} is not {KIND} of upweight ({failure!r}), or its {WORDS} is damaged: build it again"
            ) from failure
        return cls(place, words, parts)

    @classmethod
    def begun(cls, folder: str | Path, key: str) -> IndexStore | None:
        """The store there with what a cut off job has finished, which is not made again; None where nothing is yet.

        Raises StaleError where the folder holds an index of another key.
        """
        place = Path(folder)
        with together():
            if rank() == 0:
                place.mkdir(parents=True, exist_ok=True)
                remove_unfinished(place)
                remove_unfinished(place, ".tmp*")
        if not (place / WORDS).exists():
            return None
        found = cls.found(place)
        if found.words["key"] != key:
            raise StaleError(
                f"{place} holds an index of other weights, data or settings (content hash {found.words['key']}, asked "
                f"for {key}): give another folder, or delete this one"
            )
        return found

    @classmethod
    def new(cls, folder: Path, words: dict[str, Any], tensors: dict[str, Tensor]) -> IndexStore:
        """A store without rows, whose curvature is on the disk before its words are.

        Args:
            folder: where.
            words: all that is known of it, with its key.
            tensors: the curvature, and what is kept of gradients.
        """
        with together():
            write(folder / BASES, tensors, {"key": words["key"]})
        store = cls(folder, words, ())
        store.save()
        return store

    def save(self) -> None:
        """Write the words: from then on the parts are those of the index."""
        parts = [vars(part) for part in self.parts]
        with together():
            if rank() == 0:
                write_words(
                    self.folder / WORDS, {"kind": KIND, "format": FORMAT, **self.words, "parts": parts}
                )

    def bases(self) -> dict[str, Tensor]:
        """The tensors of the curvature. Raises ValueError where their file is not that of the index."""
        path = self.folder / BASES
        try:
            tensors, words = read(path, "the curvature of an index", "key", "rest.values", "kept.rest")
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: build the index again") from None
        if words["key"] != self.words["key"]:
            raise ValueError(f"{path} belongs to another index: build the index again")
        return tensors

    @property
    def n(self) -> int:
        """The number of rows."""
        return sum(part.rows for part in self.parts)

    def path(self, part: int, block: int) -> Path:
        """The file of a block."""
        return self.folder / f"part-{part:05}-{block:06}.safetensors"

    def clear(self, part: int) -> None:
        """Delete the blocks of a part that is none of the index: what a job was cut off in, or found there already."""
        for path in self.folder.glob(f"part-{part:05}-*.safetensors"):
            path.unlink()

    def write_block(self, part: int, block: int, tensors: dict[str, Tensor], words: dict[str, Any]) -> None:
        """Write one block, that this process alone writes; it is none of the index yet.

        Args:
            part: of which call.
            block: its number.
            tensors: what is kept of its rows.
            words: their names.
        """
        write_own(self.path(part, block), tensors, {**words, "key": self.words["key"]})

    def block(self, part: int, block: int) -> Block:
        """The tensors and words of a block: mapped from the disk, its checksum compared the first time that it is read.

        Raises ValueError where it is missing, changed or of another index.
        """
        path = self.path(part, block)
        if path in self.mapped:
            return self.mapped[path]
        try:
            tensors, words = read(path, "a block of an index", "own", "key", checked=path in self.checked)
        except FileNotFoundError:
            raise ValueError(f"{path} is missing: {AGAIN}") from None
        if words["key"] != self.words["key"]:
            raise ValueError(f"{path} belongs to another index: delete it and build again")
        self.checked.add(path)
        if sum(size_of(held) for held, _ in [*self.mapped.values(), (tensors, words)]) <= MAPPED:
            self.mapped[path] = tensors, words
        return tensors, words

    def blocks(self) -> Iterator[tuple[slice, dict[str, Tensor], dict[str, Any]]]:
        """All blocks with the rows that they are of, in order, one in memory at a time.

        Raises ValueError as `block`, and where they are not as many rows as the words say.
        """
        first = 0
        for i, part in enumerate(self.parts):
            last = first + part.rows
            for j in range(part.blocks):
                tensors, words = self.block(i, j)
                place = slice(first, first + len(tensors["own"]))
                yield place, tensors, words
                first = place.stop
            if first != last:
                raise ValueError(
                    f"{self.path(i, 0)} and those that follow it have {first} rows, not {last}: {AGAIN}"
                )

    def with_part(self, part: Part) -> IndexStore:
        """The store with another part, which is written."""
        store = replace(self, parts=(*self.parts, part))
        store.save()
        return store


def size_of(tensors: dict[str, Tensor]) -> int:
    """The bytes of some tensors."""
    return sum(tensor.nbytes for tensor in tensors.values())
