"""A design matrix that stays on disk: memory-mapped arrays and tables, read in blocks while earlier ones are in use.

What is read is checked and hashed once, when the design is made. `stream` opens a table, `opened` whatever a problem is
given.
"""

from __future__ import annotations

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
from .sources import ArraySource, Source
from .table_sources import FileSource, TableSource


class StreamedDesign(Design):
    """X (n, d) on disk: blocks are converted as they are read, and nothing but the chunk in use is kept.

    A pass takes the longer of reading and computing; the next chunk is read while one is in use. The hash that a
    problem is known by is taken here, once: what changes in the file later is not seen.

    Args:
        source: the rows on disk.

    Raises:
        ValueError: for a NaN or infinity, with the first example's number, after one pass over the data.
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
        """No numbers: what was opened is read only, and each row of a file would cost a seek at every question."""
        return []

    @property
    def versioned(self) -> Sequence[Tensor]:
        return []


def opened(X: Any) -> Design:
    """Make a design of X as a user gives it to a problem; a memory-mapped array stays on disk.

    Args:
        X: whatever `as_design` takes, `numpy.load(file, mmap_mode="r")`, or the design that `stream` gave.

    Raises:
        TypeError: for a path, saying how to open it.
        ValueError: as `as_design`.
    """
    if isinstance(X, Design):
        return X
    if isinstance(X, (str, Path)):
        raise TypeError(
            f'X is a path, {str(X)!r}: open an array with np.load(file, mmap_mode="r"), a table with upweight.stream'
        )
    return StreamedDesign(ArraySource(X)) if isinstance(X, np.memmap) else as_design(X)


def stream(table: Any, target: str, columns: Sequence[str] | None = None) -> tuple[Design, np.ndarray]:
    """Open a table on disk as X and y of a `LinearProblem`, for data larger than memory.

    X (n, d) is read in blocks in every pass, some megabytes at a time; y (n,) is held. All columns of X are read once
    here, for a checksum and to find a NaN or infinity. Answers are those of the same data in memory.

    Args:
        table: the path of a Parquet or Arrow file or of a folder of them, a `pyarrow.dataset.Dataset`, a
            `pyarrow.Table` or a `datasets.Dataset`.
        target: the column that is y.
        columns: those that are X, in this order: of numbers, or of lists of equally many; by default all but the
            target.

    Returns:
        X, to be given to `LinearProblem` in place of an array, and y.

    Raises:
        ValueError: for columns that are not there and for numbers that are missing or not finite, with the first row's
            number.
        TypeError: for columns that hold no numbers and for tables of another kind.
        ImportError: without pyarrow.

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
