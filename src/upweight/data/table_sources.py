"""Columns of tables as rows of numbers: pyarrow tables, datasets of Hugging Face, Parquet and Arrow files."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .sources import NUMBERS, Source, float_dtype


class TableSource(Source):
    """Columns of a `pyarrow.Table` or a `datasets.Dataset`, which map their files into memory themselves.

    Rows of a selection of a `datasets.Dataset` are read in the selection's order. Columns as `matrix` takes them.
    """

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
    """Columns of a `pyarrow.dataset.Dataset`: one or many Parquet or Arrow files, in order.

    Of a Parquet file only the row groups are read that hold a wanted row, page by page, so that memory does not grow
    with the file. Columns as `matrix` takes them.
    """

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

    Booleans count as 0 and 1. The numbers are float32 where that loses nothing, else float64.

    Args:
        table: a table or batch of Arrow.
        width: d where it is known; lists in other pieces of the data may be of another length.

    Raises:
        TypeError: for columns that hold anything else.
        ValueError: for lists of different lengths and rows that are not `width` numbers long.

    >>> import pyarrow as pa
    >>> matrix(pa.table({"a": [1.0, 2.0], "b": [[3.0, 4.0], [5.0, 6.0]]})).tolist()
    [[1.0, 3.0, 4.0], [2.0, 5.0, 6.0]]
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
    dtype = float_dtype([part.dtype for part in parts])
    found = np.concatenate([part.astype(dtype, copy=False) for part in parts]).T
    if width is not None and found.shape[1] != width:
        raise ValueError(
            f"a row has {found.shape[1]} numbers, the first one {width}: lists must be equally long"
        )
    return found
