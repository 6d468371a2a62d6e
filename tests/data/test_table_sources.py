"""Columns of tables as rows of numbers: every range and every picked row are those of the table in memory."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.on_disk import D, N, X, table
from upweight.data import sources
from upweight.data.table_sources import FileSource, TableSource, matrix

NAMES = [f"x{j}" for j in range(D)]
ROWS = X.numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A source of each kind, of which five rows or so are read at once."""
    folder = tmp_path_factory.mktemp("tables")
    for i, (start, rows) in enumerate([(0, 20), (20, 1), (21, 36)]):
        pa.parquet.write_table(table().slice(start, rows), folder / f"{i}.parquet", row_group_size=7)
    pa.feather.write_feather(table(), folder / "t.arrow", chunksize=11)
    import datasets

    return {
        "files": FileSource(pa.dataset.dataset(sorted(folder.glob("*.parquet")), format="parquet"), NAMES),
        "arrow file": FileSource(pa.dataset.dataset(folder / "t.arrow", format="ipc"), NAMES),
        "table": TableSource(table(), NAMES),
        "datasets": TableSource(datasets.Dataset(table().drop(["note"])), NAMES),
    }


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 5 * D * 4)


KINDS = ["files", "arrow file", "table", "datasets"]


@pytest.mark.parametrize("kind", KINDS)
def test_shape_and_type(made, kind):
    assert made[kind].shape == (N, D)
    assert made[kind].dtype == np.float32


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("start", "stop"), [(0, N), (0, 1), (N - 1, N), (19, 22), (20, 21), (5, 5), (13, 50)]
)
def test_every_range_is_read_in_order(made, kind, start, stop):
    pieces = list(made[kind].read(start, stop))
    found = np.concatenate([np.empty((0, D), np.float32), *pieces])
    assert np.array_equal(found, ROWS[start:stop])
    assert all(0 < len(piece) <= 5 for piece in pieces)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(index=st.lists(st.integers(0, N - 1), min_size=1, max_size=12))
def test_rows_are_picked_in_the_order_of_the_index(made, kind, index):
    assert np.array_equal(made[kind].take(np.array(index)), ROWS[index])


def test_only_row_groups_with_a_wanted_row_are_opened(made, monkeypatch):
    source = made["files"]
    opened: list[list[int]] = []
    of_file = source._of_file

    def noted(file: Any, groups: list[int]) -> Any:
        opened.append(groups)
        return of_file(file, groups)

    monkeypatch.setattr(source, "_of_file", noted)
    assert np.array_equal(source.take(np.array([8, 55])), ROWS[[8, 55]])
    assert opened == [[1], [4]]  # rows 7 to 13 of the first file, 28 to 34 of the third
    opened.clear()
    assert len(np.concatenate(list(source.read(20, 29)))) == 9
    assert opened == [[0], [0, 1]]  # the file of one row, and the first two groups of the next


def test_columns_are_in_the_order_asked_for():
    source = TableSource(table(), ["x2", "x0"])
    assert np.array_equal(np.concatenate(list(source.read(0, N))), ROWS[:, [2, 0]])


COLUMNS = {
    "numbers": ({"a": pa.array([1.0, 2.0]), "b": pa.array([3, 4], pa.int8())}, [[1, 3], [2, 4]]),
    "booleans": ({"a": pa.array([True, False])}, [[1], [0]]),
    "lists": ({"a": pa.array([[1.0, 2.0], [3.0, 4.0]])}, [[1, 2], [3, 4]]),
    "fixed lists": (
        {"a": pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)},
        [[1, 2], [3, 4]],
    ),
    "lists beside numbers": (
        {"a": pa.array([[1, 2], [3, 4]]), "b": pa.array([9, 8])},
        [[1, 2, 9], [3, 4, 8]],
    ),
    "chunks": ({"a": pa.chunked_array([[1.0], [2.0]])}, [[1], [2]]),
    "chunks of lists": ({"a": pa.chunked_array([[[1.0, 5.0]], [[2.0, 6.0]]])}, [[1, 5], [2, 6]]),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_columns_of_every_kind(kind: str):
    columns, wanted = COLUMNS[kind]
    found = matrix(pa.table(columns))
    assert found.tolist() == wanted
    assert np.array_equal(matrix(pa.table(columns).slice(1, 1)), found[1:])


@pytest.mark.parametrize(
    ("types", "wanted"),
    [
        (["float32", "int8"], "float32"),
        (["float32", "double"], "float64"),
        (["int64"], "float64"),
        (["uint16"], "float32"),
    ],
)
def test_the_precision_loses_nothing(types: list[str], wanted: str):
    columns = {f"c{i}": pa.array([1, 2]).cast(pa.type_for_alias(name)) for i, name in enumerate(types)}
    assert matrix(pa.table(columns)).dtype == wanted


@pytest.mark.parametrize(
    ("column", "error", "said"),
    [
        (pa.array(["a", "b"]), TypeError, "column 'c' holds string, not numbers: leave it out of columns="),
        (pa.array([None, None]), TypeError, "holds null, not numbers"),
        (pa.array([1, 2], pa.timestamp("s")), TypeError, r"holds timestamp\[s\], not numbers"),
        (pa.array([[1.0], [1.0, 2.0]]), ValueError, "'c' holds lists of different lengths, or none"),
        (pa.array([[1.0], None]), ValueError, "lists of different lengths, or none: pad or drop them"),
        (pa.array([["a"], ["b"]]), TypeError, "holds list<.*string>, not numbers"),
    ],
)
def test_what_holds_no_numbers_is_named(column, error, said):
    with pytest.raises(error, match=said):
        matrix(pa.table({"c": column}))


def test_lists_that_are_longer_in_another_piece():
    with pytest.raises(ValueError, match="a row has 3 numbers, the first one 2: lists must be equally long"):
        matrix(pa.table({"c": pa.array([[1.0, 2.0, 3.0]])}), 2)


def test_numbers_that_are_missing_are_no_numbers():
    """They become NaN, which the design that is made of them refuses with the row."""
    found = matrix(pa.table({"c": pa.array([1.0, None, 3.0])}))
    assert np.isnan(found[:, 0]).tolist() == [False, True, False]
