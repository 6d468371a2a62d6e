"""Rows of memory-mapped arrays, read from their files in pieces: always the numbers that the array has."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.cases import draw
from tests.support.on_disk import D, N, X, on_disk
from upweight.data import sources
from upweight.data.sources import PAGE, ArraySource, Source, float_dtype


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 5 * D * 4)


def mapped(array: np.ndarray, folder: Path, name: str = "X") -> np.memmap:
    """An array on disk."""
    np.save(folder / f"{name}.npy", array)
    found = np.load(folder / f"{name}.npy", mmap_mode="r")
    assert isinstance(found, np.memmap)
    return found


def whole(source: Source, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Rows put together."""
    return np.concatenate(list(source.read(start, source.shape[0] if stop is None else stop)))


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("form", ["whole", "rows", "columns", "changed in memory", "changed on disk"])
def test_every_way_to_read_an_array(form, cached, tmp_path, monkeypatch):
    on_disk("memmap", tmp_path)
    array = np.load(tmp_path / "X.npy", mmap_mode="c" if form == "changed in memory" else "r")
    if form == "changed in memory":
        array[3] = 7
    if form == "changed on disk":  # another file of that name
        np.save(tmp_path / "other.npy", -X.numpy())
        (tmp_path / "other.npy").rename(tmp_path / "X.npy")
    given = {"rows": array[7:41], "columns": array[:, 1:3]}.get(form, array)
    read = os.preadv

    def forgotten(*args):
        if len(args) == 4 and not cached:
            raise BlockingIOError
        return read(*args)

    monkeypatch.setattr(os, "preadv", forgotten)
    source = sources.ArraySource(given)
    assert (source._place is None) == (form not in ("whole", "rows"))
    assert np.array_equal(np.concatenate(list(source.read(0, len(given)))), given)
    assert np.array_equal(np.concatenate(list(source.read(9, 20))), given[9:20])


def test_precisions_and_whole_numbers(tmp_path):
    for dtype, kept in (("f2", "f4"), ("i1", "f4"), ("u1", "f4"), ("?", "f4"), ("i8", "f8"), ("f8", "f8")):
        values = (3 * X.numpy()).astype(dtype)
        np.save(tmp_path / "X.npy", values)
        source = sources.ArraySource(np.load(tmp_path / "X.npy", mmap_mode="r"))
        assert source.dtype == kept
        assert np.array_equal(np.concatenate(list(source.read(0, N))), values.astype(kept))


@settings(max_examples=25)
@given(
    n=st.integers(1, 30),
    d=st.integers(1, 7),
    dtype=st.sampled_from(["f4", "f8", "i2", "?"]),
    chunk=st.integers(1, 400),
    skipped=st.integers(0, 3),
    data=st.data(),
)
def test_any_range_of_any_array_in_any_chunks(n, d, dtype, chunk, skipped, data, tmp_path_factory):
    """`skipped` rows before it make a view that begins inside its file."""
    folder = tmp_path_factory.mktemp("array")
    array: Any = mapped((3 * draw(n + skipped, d)).numpy().astype(dtype), folder)[skipped:]
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "CHUNK_BYTES", chunk)
        source = ArraySource(array)
        assert source._place is not None or not hasattr(os, "preadv")
        pieces = list(source.read(start, stop))
        assert all(len(piece) <= source.at_once for piece in pieces)
    found = np.concatenate([np.empty((0, d), source.dtype), *pieces])
    assert found.dtype == source.dtype
    assert np.array_equal(found, array[start:stop].astype(source.dtype))


def test_rows_that_are_longer_than_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 3 * PAGE)
    array = mapped(draw(5, PAGE // 8 + 17).numpy(), tmp_path)
    source = ArraySource(array)
    assert source.at_once == 2
    assert np.array_equal(whole(source), array)
    assert np.array_equal(whole(source, 3, 4), array[3:4])


def test_at_least_one_row_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sources, "CHUNK_BYTES", 1)
    source = ArraySource(mapped(X.numpy(), tmp_path))
    assert source.at_once == 1
    assert [len(piece) for piece in source.read(2, 5)] == [1, 1, 1]


def test_pieces_are_of_nobody_else(tmp_path: Path):
    """Whoever reads may write into them: neither the file nor the next pass sees it."""
    array, _ = on_disk("memmap", tmp_path)
    source = ArraySource(array)
    for piece in source.read(0, N):
        piece += 1
    assert np.array_equal(whole(source), X.numpy())


def test_rows_are_picked_in_the_order_of_the_index(tmp_path: Path):
    source = ArraySource(mapped((9 * X.numpy()).astype("i2"), tmp_path))
    index = np.array([56, 0, 0, 31])
    picked = source.take(index)
    assert picked.dtype == source.dtype
    assert np.array_equal(picked, (9 * X.numpy()).astype("i2")[index])
    assert source.take(np.array([], dtype=int)).shape == (0, D)


def test_two_passes_at_once_do_not_disturb_each_other(tmp_path: Path):
    source = ArraySource(on_disk("memmap", tmp_path)[0])
    pairs = list(zip(source.read(0, 25), source.read(30, 55), strict=True))
    assert np.array_equal(np.concatenate([first for first, _ in pairs]), X[:25].numpy())
    assert np.array_equal(np.concatenate([second for _, second in pairs]), X[30:55].numpy())


@pytest.mark.parametrize("cut", [0, 600])
def test_a_file_that_ends_too_early(tmp_path: Path, cut: int):
    array, _ = on_disk("memmap", tmp_path)
    source = ArraySource(array)
    with (tmp_path / "X.npy").open("r+b") as file:
        file.truncate(cut)
    with pytest.raises(OSError, match=r"X\.npy ends too early: it has been changed since it was opened"):
        whole(source)


def test_no_file_is_left_open(tmp_path: Path):
    here = Path("/proc/self/fd")
    if not here.is_dir():
        pytest.skip("this system does not list open files")
    source = ArraySource(on_disk("memmap", tmp_path)[0])
    before = len(list(here.iterdir()))
    whole(source)
    half = source.read(0, N)
    next(half)
    half.close()  # type: ignore[attr-defined]
    assert len(list(here.iterdir())) == before


@pytest.mark.parametrize(
    ("array", "error", "said"),
    [
        (np.zeros(4), ValueError, r"X must have shape \(n, d\), got \(4,\)"),
        (np.zeros((2, 2, 2)), ValueError, r"got \(2, 2, 2\)"),
        (np.full((3, 2), "word"), TypeError, "X holds <U4, not numbers"),
        (np.zeros((3, 2), complex), TypeError, "X holds complex128, not numbers"),
    ],
)
def test_what_is_no_matrix_of_numbers_is_refused(array, error, said, tmp_path: Path):
    with pytest.raises(error, match=said):
        ArraySource(mapped(array, tmp_path))


@pytest.mark.parametrize(
    "pair", list(itertools.product(["f2", "f4", "f8", "i1", "u2", "i4", "i8", "?"], repeat=2))
)
def test_the_float_type_holds_every_number(pair: tuple[str, str]):
    found = float_dtype([np.dtype(name) for name in pair])
    assert found in (np.float32, np.float64)
    exact = {"f2": 11, "f4": 24, "f8": 53, "i1": 8, "u2": 16, "i4": 32, "i8": 64, "?": 1}
    digits = max(exact[name] for name in pair)
    assert (found == np.float32) == (digits <= 24)


def test_numbers_of_half_precision_are_read_without_loss(tmp_path: Path):
    array = mapped(X.numpy().astype("f2"), tmp_path)
    assert torch.equal(torch.from_numpy(whole(ArraySource(array))), torch.from_numpy(array.astype("f4")))
