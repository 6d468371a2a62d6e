"""Rows that stay on disk: memory-mapped arrays and tables of columns, read in order while earlier ones are in use.

Only this file knows how they are stored. What is read is checked and hashed once, when the stream is made.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from ..runtime.prefetch import ahead
from ..runtime.progress import track
from ..types import Tensor
from .design import Block, DenseBlock, DenseDesign, Design, as_design, check_finite, check_shape

CHUNK_BYTES = 4 << 20
"""Of what is read at once: few enough that memory is used again, not mapped afresh, page by page."""
PAGE = mmap.PAGESIZE
NUMBERS = "fiub"
"""NumPy's kinds of numbers."""


class Source(ABC):
    """n rows of d numbers on disk."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]

    @abstractmethod
    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Those rows in order, in arrays (b, d) of about CHUNK_BYTES that nobody else writes to."""

    @abstractmethod
    def take(self, index: np.ndarray) -> np.ndarray:
        """The rows of that index (b,), in its order."""

    @property
    def at_once(self) -> int:
        """Rows of about CHUNK_BYTES."""
        return max(1, CHUNK_BYTES // (self.shape[1] * self.dtype.itemsize))


class ArraySource(Source):
    """A memory-mapped array, read from its file where its rows lie there one after the other.

    The system keeps what was read last, so that of a file larger than memory every pass finds nothing kept and pays for
    the keeping: where the start has been forgotten by the next pass, the file is read past that cache.
    """

    def __init__(self, array: np.memmap) -> None:
        check_shape(array.shape, "X")
        if array.dtype.kind not in NUMBERS:
            raise TypeError(f"X holds {array.dtype}, not numbers: turn it into numbers first")
        self.array, self.shape, self.dtype = array, (len(array), array.shape[1]), _float_of([array.dtype])
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


class TableSource(Source):
    """Columns of a `pyarrow.Table` or a `datasets.Dataset`."""

    def __init__(self, table: Any, columns: Sequence[str]) -> None:
        if hasattr(table, "with_format"):  # of datasets
            table = table.with_format("arrow", columns=list(columns))
            self._slice = lambda start, stop: table[start:stop]
            self._take = lambda index: table[index.tolist()]
        else:
            table = table.select(list(columns))
            self._slice = lambda start, stop: table.slice(start, stop - start)
            self._take = table.take
        first = matrix(self._slice(0, min(1, len(table))))
        self.shape, self.dtype = (len(table), first.shape[1]), first.dtype

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for first in range(start, stop, self.at_once):
            yield matrix(self._slice(first, min(first + self.at_once, stop)), self.shape[1])

    def take(self, index: np.ndarray) -> np.ndarray:
        return matrix(self._take(index), self.shape[1])


class FileSource(Source):
    """Columns of a `pyarrow.dataset.Dataset`: Parquet or Arrow files."""

    def __init__(self, dataset: Any, columns: Sequence[str]) -> None:
        self.dataset, self.columns = dataset, list(columns)
        self.files = list(dataset.get_fragments())
        counts = [_counts(file) for file in self.files]
        edges = list(itertools.accumulate(itertools.chain([0], *counts)))
        firsts = itertools.accumulate(map(len, counts), initial=0)
        self.edges = [edges[i : i + len(own) + 1] for i, own in zip(firsts, counts, strict=False)]
        """Of each file, the numbers of the rows where its groups begin, and where it ends."""
        self.shape, self.dtype = (edges[-1], len(self.columns)), np.dtype(np.float32)  # to read the first row
        for _, batch in self._batches(0, min(1, edges[-1])):
            first = matrix(batch.slice(0, 1))
            self.shape, self.dtype = (edges[-1], first.shape[1]), first.dtype
            break

    def _batches(self, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """What holds those rows, each batch with the number of its first."""
        for file, edges in zip(self.files, self.edges, strict=True):
            groups = [g for g, (a, b) in enumerate(itertools.pairwise(edges)) if a < stop and b > start]
            here = edges[groups[0]] if groups else 0
            for batch in self._of_file(file, groups) if groups else ():
                yield here, batch.select(self.columns)
                here += len(batch)

    def _of_file(self, file: Any, groups: list[int]) -> Iterator[Any]:
        options: dict[str, Any] = {"columns": self.columns, "batch_size": self.at_once}
        if not _is_parquet(file):
            yield from file.to_batches(schema=self.dataset.schema, batch_readahead=1, **options)
            return
        import pyarrow.parquet

        # Pages as they are wanted: what pyarrow fetches ahead by default grew to all of a file of 5 GB.
        with pyarrow.parquet.ParquetFile(file.open(), pre_buffer=False, buffer_size=1 << 20) as pages:
            yield from pages.iter_batches(row_groups=groups, **options)

    def read(self, start: int, stop: int) -> Iterator[np.ndarray]:
        for here, batch in self._batches(start, stop):
            low, high = max(start - here, 0), min(stop - here, len(batch))
            if low < high:
                yield matrix(batch.slice(low, high - low), self.shape[1])

    def take(self, index: np.ndarray) -> np.ndarray:
        found = np.empty((len(index), self.shape[1]), self.dtype)
        order = np.argsort(index, kind="stable")
        wanted = index[order]
        for edges in self.edges:
            for start, stop in itertools.pairwise(edges):
                if not np.diff(np.searchsorted(wanted, (start, stop))):
                    continue
                for here, batch in self._batches(start, stop):
                    low, high = np.searchsorted(wanted, (here, here + len(batch)))
                    if low < high:
                        found[order[low:high]] = matrix(batch.take(wanted[low:high] - here), self.shape[1])
        return found


def _is_parquet(file: Any) -> bool:
    return hasattr(file, "row_groups")


def _counts(file: Any) -> list[int]:
    """The rows of each row group of a Parquet file, else of the file."""
    return [group.num_rows for group in file.row_groups] if _is_parquet(file) else [file.count_rows()]


def matrix(table: Any, width: int | None = None) -> np.ndarray:
    """Columns of numbers, or of lists of equally many, of an Arrow table as (b, d), column by column in memory.

    Raises TypeError for columns that hold anything else, ValueError for rows that are not `width` numbers long.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        listed = pa.types.is_nested(column.type) and hasattr(column, "flatten")
        if listed and (column.null_count or len(pc.unique(pc.list_value_length(column))) > 1):
            raise ValueError(f"column {name!r} holds lists of different lengths, or none: pad or drop them")
        values = (column.flatten() if listed else column).to_numpy(zero_copy_only=False)
        if values.dtype.kind not in NUMBERS:
            raise TypeError(
                f"column {name!r} holds {column.type}, not numbers: leave it out of columns=, or turn it into numbers"
            )
        parts.append(values.reshape(len(column), -1).T if listed else values[None])
    dtype = _float_of([part.dtype for part in parts])
    found = np.concatenate([part.astype(dtype, copy=False) for part in parts]).T
    if width is not None and found.shape[1] != width:
        raise ValueError(
            f"a row has {found.shape[1]} numbers, the first one {width}: lists must be equally long"
        )
    return found


def _float_of(dtypes: Sequence[np.dtype[Any]]) -> np.dtype[Any]:
    """float32 where it loses nothing, else float64."""
    return np.result_type(np.float32, *dtypes)


class StreamedDesign(Design):
    """X (n, d) on disk: blocks are converted as they are read, and nothing but the chunk in use is kept.

    Raises ValueError for a NaN or infinity, with the first example's index, after one pass over the data.
    """

    def __init__(self, source: Source) -> None:
        check_shape(source.shape, "X")
        self.source, self.shape = source, source.shape
        digest = xxhash.xxh3_128(repr((self.shape, str(source.dtype))).encode())
        chunks = -(-self.shape[0] // source.at_once)
        done = 0
        for rows in track(ahead(source.read(0, self.shape[0])), "checking the data", chunks):
            check_finite(torch.from_numpy(rows), "X", done)
            digest.update(rows.ravel(order="K").data)
            done += len(rows)
        self._digest = torch.tensor(list(digest.digest()), dtype=torch.uint8)

    def blocks(
        self, size: int, dtype: torch.dtype, within: slice | None = None
    ) -> Iterator[tuple[slice, Block]]:
        start, stop, _ = (within or slice(None)).indices(self.shape[0])
        for rows in ahead(self.source.read(start, stop)):
            for part in torch.from_numpy(rows).split(size):
                yield slice(start, start + len(part)), DenseBlock(part.to(dtype))
                start += len(part)

    def block(self, rows: slice, dtype: torch.dtype) -> Block:
        start, stop, _ = rows.indices(self.shape[0])
        found = [torch.from_numpy(part).to(dtype) for part in self.source.read(start, stop)]
        return DenseBlock(torch.cat([torch.empty(0, self.shape[1], dtype=dtype), *found]))

    def take(self, index: Tensor) -> Design:
        return DenseDesign(torch.from_numpy(np.ascontiguousarray(self.source.take(index.numpy()))))

    def buffers(self) -> Sequence[Tensor]:
        return [self._digest]

    def sample(self) -> Sequence[Tensor]:
        """Nothing: what was opened is read only, and the file's rows cost a seek each."""
        return []

    @property
    def versioned(self) -> Sequence[Tensor]:
        return []


def opened(X: Any) -> Design:
    """A design of anything that `as_design` takes; a memory-mapped array stays on disk, a design is one already.

    Raises TypeError for a path, saying how to open it.
    """
    if isinstance(X, Design):
        return X
    if isinstance(X, (str, Path)):
        raise TypeError(
            f'X is a path, {str(X)!r}: open an array with np.load(file, mmap_mode="r"), a table with upweight.stream'
        )
    return StreamedDesign(ArraySource(X)) if isinstance(X, np.memmap) else as_design(X)


def stream(table: Any, target: str, columns: Sequence[str] | None = None) -> tuple[Design, np.ndarray]:
    """A table on disk as X and y of a `LinearProblem`: X (n, d) is read in blocks in every pass, y (n,) is held.

    `table` is the path of a Parquet or Arrow file or of a folder of them, a `pyarrow.dataset.Dataset`, a
    `pyarrow.Table` or a `datasets.Dataset`. `columns` of numbers, or of lists of equally many numbers, are X in that
    order; by default all but the target. They are read once here, for a checksum and to find a NaN or infinity.

    Raises ValueError for columns that are not there and for numbers that are missing or not finite (with the first
    row's number), TypeError for columns that hold no numbers and for tables of another kind, ImportError without
    pyarrow.

    >>> import pyarrow as pa
    >>> table = pa.table({"a": [1.0, 2.0, 3.0], "b": [0.5, 0.0, 1.0], "label": [0, 1, 1]})
    >>> X, y = stream(table, "label")
    >>> X.shape, y
    ((3, 2), array([0, 1, 1]))
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError as missing:
        raise ImportError('tables on disk need pyarrow: pip install "upweight[files]"') from missing
    table = _dataset(Path(table)) if isinstance(table, (str, Path)) else table
    kind = type(table).__module__.partition(".")[0]
    names = getattr(table, "column_names", None) or getattr(getattr(table, "schema", None), "names", None)
    if kind not in ("pyarrow", "datasets") or names is None:
        raise TypeError(
            f"a table is a path, a pyarrow Table or Dataset or a datasets.Dataset, got {type(table).__name__}; "
            'arrays on disk go to LinearProblem as np.load(file, mmap_mode="r")'
        )
    columns = [name for name in names if name != target] if columns is None else list(columns)
    missing_names = [name for name in [target, *columns] if name not in names]
    if missing_names or not columns:
        raise ValueError(
            f"the table has the columns {list(names)[:20]}, not {missing_names or 'any beside y'}"
        )
    source = FileSource if hasattr(table, "get_fragments") else TableSource
    return StreamedDesign(source(table, columns)), _column(table, target)


def _column(table: Any, name: str) -> np.ndarray:
    """One column, in memory."""
    if hasattr(table, "with_format"):
        whole = table.with_format("arrow", columns=[name])[:]
    else:
        whole = table.to_table(columns=[name]) if hasattr(table, "to_table") else table.select([name])
    return whole.column(name).to_numpy()


def _dataset(path: Path) -> Any:
    """The files of a path."""
    import pyarrow.dataset

    if not path.exists():
        raise FileNotFoundError(f"{path} is not there")
    first = (
        next((file for file in sorted(path.rglob("*")) if file.is_file()), path) if path.is_dir() else path
    )
    kind = {".arrow": "ipc", ".feather": "ipc", ".ipc": "ipc"}.get(first.suffix.lower(), "parquet")
    return pyarrow.dataset.dataset(path, format=kind)
