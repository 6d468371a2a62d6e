"""What is noticed of data that somebody changes in place, and what is not mistaken for that."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from upweight.data.examples import WATCHED_BYTES, Rows, as_rows
from upweight.data.watch import Watch

CPU = torch.device("cpu")


def rows_of(data: Any) -> Rows:
    return as_rows(data, CPU, torch.float32)


def test_a_change_and_its_undoing():
    X = torch.zeros(5, 2)
    watch = Watch(lambda: [X[:2]], [X])
    assert not watch.moved()
    X[4, 1] = 3.0  # outside the sample
    assert watch.moved()
    X[4, 1] = 0.0
    assert not watch.moved()


def test_a_change_beside_a_view_is_none():
    whole = torch.zeros(6, 2)
    train, rest = whole[:4], whole[4:]
    watch = Watch(lambda: [train[:1]], [train])
    rest += 1  # torch counts it for the view as well
    assert not watch.moved()
    train[3] += 1
    assert watch.moved()


def test_without_tensors_the_sample_decides():
    array = np.zeros((5, 2), dtype=np.float32)
    watch = Watch(lambda: [torch.from_numpy(array[:2])])
    array[3] = 1
    assert not watch.moved()
    array[1] = 1
    assert watch.moved()


def test_tensors_of_inference_mode_are_compared_by_their_numbers():
    with torch.inference_mode():
        X = torch.zeros(4, 2)
    watch = Watch(lambda: [X], [X])
    assert not watch.moved()
    with torch.inference_mode():
        X[2] += 1
    assert watch.moved()


def test_few_examples_in_memory_are_all_compared():
    X = np.zeros((100, 3), dtype=np.float32)
    y = torch.zeros(100)
    watch = rows_of((X, y)).watched()
    for i in range(100):
        X[i, 1] = 1
        assert watch.moved()
        X[i, 1] = 0
        assert not watch.moved()


def test_of_many_examples_a_sample_is_compared_and_torchs_count():
    n = WATCHED_BYTES // 4
    array, tensor = np.zeros((n, 2), dtype=np.float32), torch.zeros(n, 2)
    for X, seen in ((array, False), (tensor, True)):
        watch = rows_of((X, torch.zeros(n))).watched()
        X[1] = 1  # a row that is not in the sample
        assert watch.moved() == seen
        X[0] = 1
        assert watch.moved()


@pytest.mark.parametrize("form", ["memory map", "dataset"])
def test_what_is_read_is_read_again_at_a_few_places(form, tmp_path):
    X: Any = np.zeros((40, 3), dtype=np.float32)
    if form == "memory map":
        X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.float32, shape=(40, 3))
        watch = rows_of((X, torch.zeros(40))).watched()
    else:

        class Listed(torch.utils.data.Dataset[Any]):
            def __len__(self) -> int:
                return 40

            def __getitem__(self, i: int) -> Any:
                return torch.from_numpy(X[i].copy()), torch.tensor(0.0)

        watch = rows_of(Listed()).watched()
    assert not watch.moved()
    X[:] = 1
    assert watch.moved()


def test_targets_beside_a_memory_map_and_tensors_of_a_dataset_are_watched(tmp_path):
    X = np.lib.format.open_memmap(tmp_path / "X.npy", mode="w+", dtype=np.float32, shape=(400, 3))
    for inputs in (X, torch.zeros(400, 3)):
        y = torch.zeros(400)
        data: Any = (X, y) if isinstance(inputs, np.memmap) else TensorDataset(inputs, y)
        watch = rows_of(data).watched()
        y[333] = 1
        assert watch.moved()


def test_a_subset_reads_what_is_there():
    """Its problem keeps the watch of the whole."""
    X = torch.zeros(4, 2)
    rows = rows_of((X, torch.zeros(4)))
    watch = rows.watched()
    part = rows.subset(torch.tensor([2]))
    X[2] = 5
    assert float(part.take(slice(0, 1))[0].sum()) == 10.0
    assert watch.moved()
