"""Rows of numbers on disk, read in order in pieces of a few megabytes: what a source is, and memory-mapped arrays.

What is read goes past the system's cache where that has forgotten it. `table_sources` reads columns of tables.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .design import check_shape

CHUNK_BYTES = 4 << 20
"""Of what is read at once: few enough that memory is used again, not mapped afresh, page by page."""
PAGE = mmap.PAGESIZE
NUMBERS = "fiub"
"""NumPy's kinds of numbers."""


class Source(ABC):
    """n rows of d numbers on disk, which are read in order in every pass and picked one by one where few are wanted."""

    shape: tuple[int, int]
    """(n, d)."""
    dtype: np.dtype[Any]
    """What numbers are read as: float32 where that loses nothing of what is stored, else float64."""

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows `start` to `stop` - 1 in order, in arrays (b, d) of about CHUNK_BYTES that nobody else writes to."""

    @abstractmethod
    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows of an index (b,), in its order, (b, d) in memory; rows may come twice."""

    @property
    def at_once(self) -> int:
        """The number of rows that are read at once: about CHUNK_BYTES of them, at least one."""
        return max(1, CHUNK_BYTES // (self.shape[1] * self.dtype.itemsize))


class ArraySource(Source):
    """A memory-mapped array, read from its file where its rows lie there one after the other.

    The system keeps what was read last, so that of a file larger than memory every pass finds nothing kept and pays for
    the keeping: where the start has been forgotten by the next pass, the file is read past that cache.

    Raises:
        TypeError: for an array of anything but numbers.
        ValueError: for one that is not (n, d) with n > 0.
    """

    def __init__(self, array: np.memmap) -> None:
        check_shape(array.shape, "X")
        if array.dtype.kind not in NUMBERS:
            raise TypeError(f"X holds {array.dtype}, not numbers: turn it into numbers first")
        self.array, self.shape, self.dtype = array, (len(array), array.shape[1]), float_dtype([array.dtype])
        self._place = _place(array)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        sizes = [min(self.at_once, stop - first) for first in range(start, stop, self.at_once)]
        if self._place is None:
            parts = (
                self.array[first : first + size]
                for first, size in zip(range(start, stop, self.at_once), sizes, strict=True)
            )
            yield from (np.array(part, dtype=self.dtype) for part in parts)
            return
        path, begin = self._place
        width = self.array.strides[0]
        pieces = _read(path, begin + start * width, [size * width for size in sizes])
        for size, piece in zip(sizes, pieces, strict=True):
            rows = piece.view(self.array.dtype).reshape(size, self.shape[1])
            yield rows.astype(self.dtype, copy=False)

    def take(self, index: np.ndarray) -> np.ndarray:
        return np.array(self.array[index], dtype=self.dtype)


def _place(array: np.memmap) -> tuple[Path, int] | None:
    """The file of an array and where it begins there; None if that file is not its rows one after the other."""
    if array.filename is None or array.mode == "c" or not array.flags.c_contiguous or not array.size:
        return None
    if not hasattr(os, "preadv"):  # Windows
        return None
    mapped = np.frombuffer(array._mmap, np.uint8)  # type: ignore[attr-defined]
    begin = array.offset - array.offset % mmap.ALLOCATIONGRANULARITY
    path, begin = Path(array.filename), int(begin + array.ctypes.data - mapped.ctypes.data)
    # There may be another file of that name by now.
    for i in (0, len(array) // 2, len(array) - 1):
        row = array[i].tobytes()
        if next(_read(path, begin + i * array.strides[0], [len(row)])).tobytes() != row:
            return None
    return path, begin


def _read(path: Path, position: int, sizes: Sequence[int]) -> Iterator[np.ndarray]:
    """Consecutive pieces of a file as bytes. Raises OSError where it ends before."""
    file = _open(path, position)
    try:
        for size in sizes:
            skip = position % PAGE
            piece, have = _pages(skip + size), 0
            while have < skip + size:
                count = os.preadv(file, [piece[have:].data], position - skip + have)
                if count == 0:
                    raise OSError(f"{path} ends too early: it has been changed since it was opened")
                have += count
            yield piece[skip : skip + size]
            position += size
    finally:
        os.close(file)


def _open(path: Path, position: int) -> int:
    """A file for reading, past the system's cache where that has forgotten it."""
    file = os.open(path, os.O_RDONLY)
    if not hasattr(os, "O_DIRECT") or not hasattr(os, "RWF_NOWAIT"):
        return file
    try:
        os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT)
    except BlockingIOError:
        with contextlib.suppress(OSError):  # a file system that cannot
            direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
            os.close(file)
            return direct
    except OSError:  # a file system that does not say
        pass
    return file


def _pages(size: int) -> np.ndarray:
    """Whole pages for that many bytes, as reading past the cache wants them."""
    whole = -(-size // PAGE) * PAGE
    held = np.empty(whole + PAGE, np.uint8)
    first = -held.ctypes.data % PAGE
    return held[first : first + whole]


def float_dtype(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """The float type that numbers of these types are read as: float32 where it loses nothing, else float64.

    >>> float_dtype([np.dtype("int8"), np.dtype("float16")]), float_dtype([np.dtype("int64")])
    (dtype('float32'), dtype('float64'))
    """
    return np.result_type(np.float32, *dtypes)
