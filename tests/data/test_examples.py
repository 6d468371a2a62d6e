"""Examples from everything that may hold them: equal batches in equal order, and errors that name what is wrong."""

from collections import UserDict
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Subset, TensorDataset

from tests.support.cases import draw
from upweight.data import examples as module
from upweight.data.examples import (
    Rows,
    as_rows,
    batched,
    count,
    examples,
    pinned,
    targets_of,
    tensors,
    to_device,
)

CPU = torch.device("cpu")
N = 7
X, Y = draw(N, 3).float(), torch.arange(N)


class Listed(Dataset[Any]):
    """A map-style dataset of (inputs, target)."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return X[i], Y[i]


class Together(Listed):
    """One that gives many at once."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.asked.append(indices)
        return [(X[i], Y[i]) for i in indices]


def memory_map(folder) -> np.memmap:
    np.save(folder / "X.npy", X.numpy())
    found = np.load(folder / "X.npy", mmap_mode="r")
    assert isinstance(found, np.memmap)
    return found


FORMS: dict[str, Any] = {
    "tensors": lambda folder: (X, Y),
    "a list of two": lambda folder: [X, Y],
    "arrays": lambda folder: (X.numpy(), Y.numpy()),
    "nested lists": lambda folder: (X, Y.tolist()),
    "a memory map": lambda folder: (memory_map(folder), Y),
    "a dataset": lambda folder: Listed(),
    "a dataset of many at once": lambda folder: Together(),
    "a tensor dataset": lambda folder: TensorDataset(X, Y),
    "a selection": lambda folder: Subset(TensorDataset(X.flip(0), Y.flip(0)), list(range(N))[::-1]),
    "a loader": lambda folder: DataLoader(Listed(), batch_size=3),
}
every_form = pytest.mark.parametrize("form", FORMS)


def rows_of(data: Any, dtype: torch.dtype = torch.float32, name: str = "train") -> Rows:
    return as_rows(data, CPU, dtype, name)


@every_form
def test_all_forms_hold_the_same_examples(form: str, tmp_path):
    rows = rows_of(FORMS[form](tmp_path))
    assert len(rows) == N
    for index in (torch.tensor([4, 0, 0]), slice(2, 5), torch.tensor([6])):
        inputs, targets = rows.take(index)
        assert torch.equal(inputs, X[index])
        assert torch.equal(targets, Y[index])


@every_form
@pytest.mark.parametrize("size", [1, 3, N, 100])
@pytest.mark.parametrize("within", [None, slice(2, 6), slice(5, None), slice(3, 3)])
def test_blocks_are_all_examples_in_order(form: str, size: int, within: slice | None, tmp_path):
    rows = rows_of(FORMS[form](tmp_path))
    start, stop, _ = (within or slice(None)).indices(N)
    at = start
    for part, (inputs, targets) in rows.blocks(size, within):
        assert part.start == at
        assert 0 < part.stop - part.start <= size
        assert torch.equal(inputs, X[part])
        assert torch.equal(targets, Y[part])
        at = part.stop
    assert at == stop


@every_form
def test_a_subset_is_in_the_order_of_its_index(form: str, tmp_path):
    rows = rows_of(FORMS[form](tmp_path)).subset(torch.tensor([5, 1, 3]))
    assert len(rows) == 3
    assert rows.take(slice(0, 3))[1].tolist() == [5, 1, 3]
    assert rows.take(torch.tensor([2, 0]))[1].tolist() == [3, 5]
    assert rows.subset(torch.tensor([1])).take(slice(None))[1].tolist() == [1]
    assert [batch[1].tolist() for _, batch in rows.blocks(2)] == [[5, 1], [3]]


@every_form
def test_the_digest_is_that_of_the_numbers(form: str, tmp_path):
    found = rows_of(FORMS[form](tmp_path)).digest()
    assert torch.equal(found, rows_of((X, Y)).digest())
    assert found.shape == (16,)
    for other in ((X + 1e-6, Y), (X, Y.flip(0)), (X.flip(0), Y.flip(0))):
        assert not torch.equal(rows_of(other).digest(), found)


def test_many_at_once_are_asked_for_at_once():
    data = Together()
    rows = rows_of(data)
    data.asked.clear()
    rows.take(torch.tensor([3, 1]))
    rows.take(slice(0, 2))
    assert data.asked == [[3, 1], [0, 1]]


@pytest.mark.parametrize("kind", [dict, UserDict])
def test_a_mapping_stays_one_and_becomes_a_dict(kind: Any):
    rows = rows_of(kind({"x": X, "labels": Y.numpy()}))
    batch = rows.take(slice(1, 3))
    assert type(batch) is dict
    assert torch.equal(batch["x"], X[1:3])
    assert targets_of(batch) is batch


def test_inputs_of_several_parts():
    rows = rows_of(({"a": X, "b": (X.numpy(), Y)}, Y))
    inputs, targets = rows.take(torch.tensor([2]))
    assert torch.equal(inputs["b"][0], X[2:3])
    assert inputs["b"][1].tolist() == targets.tolist() == [2]


def test_a_collator_that_pads_is_kept():
    class Ragged(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> Any:
            return torch.ones(i + 1), torch.tensor(i)

    def pad(items: list[Any]) -> Any:
        inputs = torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True)
        return inputs, torch.stack([y for _, y in items])

    rows = rows_of(DataLoader(Ragged(), collate_fn=pad))
    assert rows.take(slice(1, 3))[0].tolist() == [[1, 1, 0], [1, 1, 1]]
    with pytest.raises(
        ValueError, match=r"could not be made one batch .*DataLoader\(dataset, collate_fn=\.\.\.\)"
    ):
        rows_of(Ragged())


def test_a_collators_own_error_is_the_users():
    def broken(items: list[Any]) -> Any:
        raise RuntimeError("in the collator")

    with pytest.raises(RuntimeError, match="in the collator"):
        rows_of(DataLoader(Listed(), collate_fn=broken))


def test_examples_in_memory_are_those_of_the_user_until_they_are_taken():
    inputs = X.clone()
    rows = rows_of((inputs, Y))
    inputs[2] = 5
    assert rows.take(torch.tensor([2]))[0].tolist() == [[5, 5, 5]]


def test_gradients_of_the_users_tensors_are_left_behind():
    assert not rows_of((X.clone().requires_grad_(), Y)).take(slice(0, 1))[0].requires_grad


@pytest.mark.parametrize("slow", [True, False])
def test_slow_examples_are_read_ahead_and_no_others(slow: bool, monkeypatch: pytest.MonkeyPatch):
    handed: list[Any] = []

    def noted(items: Any) -> Any:
        handed.append(items)
        return items

    monkeypatch.setattr(module, "ahead", noted)
    rows = Rows(N, lambda index: (X[index], Y[index]), CPU, slow=slow)
    assert [batch[1].tolist() for _, batch in rows.blocks(4)] == [[0, 1, 2, 3], [4, 5, 6]]
    assert bool(handed) == slow
    assert [batch[1].tolist() for _, batch in rows.subset(torch.tensor([6, 2])).blocks(4)] == [[6, 2]]
    assert len(handed) == 2 * slow


def test_of_very_many_examples_the_last_may_be_looked_at():
    """Places are counted in double precision: in single precision the last one would be n, where n - 1 is odd."""
    n, seen = 16_777_220, []

    def fetch(index: torch.Tensor | slice) -> Any:
        assert isinstance(index, torch.Tensor)
        seen.append(index)
        return index, index

    assert not Rows(n, fetch, CPU).watched().moved()
    assert all(int(index.max()) == n - 1 and int(index.min()) == 0 for index in seen)


# -- what is refused -----------------------------------------------------------------------------------------------


class Augmented(Listed):
    """Other numbers at every reading."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __getitem__(self, i: int) -> Any:
        return X[i] + torch.randn(3, generator=self.generator), Y[i]


class Streamed(IterableDataset[Any]):
    """One without an index."""

    def __iter__(self) -> Any:
        return iter([(X[0], Y[0])])


def spoiled(i: int, value: float) -> torch.Tensor:
    out = X.clone()
    out[i, 1] = value
    return out


REFUSED: dict[str, Any] = {
    "no examples": ((X[:0], Y[:0]), ValueError, "train is empty: give at least one example"),
    "no tensors": ({}, ValueError, "train is empty: give at least one tensor"),
    "unequal lengths": (
        (X, Y[:3]),
        ValueError,
        "train: inputs, targets have 7, 3 examples; lengths must be equal",
    ),
    "unequal columns": ({"a": X, "b": Y[:2]}, ValueError, "train: a, b have 7, 2 examples"),
    "a NaN": ((spoiled(4, np.nan), Y), ValueError, "train has a NaN or infinity, first in example 4"),
    "an infinity": ((spoiled(5, -np.inf), Y), ValueError, "first in example 5: drop or repair that example"),
    "a target that is NaN": ((X, spoiled(6, np.nan)[:, 1]), ValueError, "first in example 6"),
    "another precision": (
        (X.double(), Y),
        TypeError,
        r"train holds torch.float64 numbers, the model has torch.float32",
    ),
    "three parts": ((X, Y, Y), TypeError, r"must be \(inputs, targets\), got a tuple of 3 items"),
    "a word": ((X, "abc"), TypeError, r"train must hold tensors or arrays of numbers, got str"),
    "words": (({"a": ["b"]}, Y), TypeError, "must hold tensors or arrays of numbers, got list"),
    "a column of words": (
        {"a": X, "b": "abc"},
        TypeError,
        r"train\['b'\] must hold tensors or arrays of numbers",
    ),
    "one number": (
        (X, 3),
        ValueError,
        "train holds a single number; the first dimension must count the examples",
    ),
    "a number as targets": (3, TypeError, "map-style Dataset or a DataLoader of one, got int"),
    "no index": (Streamed(), TypeError, "got Streamed; examples need an index and a length"),
    "a loader that shuffles": (DataLoader(Listed(), shuffle=True), ValueError, "make it with shuffle=False"),
    "a loader with a random sampler": (
        DataLoader(Listed(), sampler=RandomSampler(Listed())),
        ValueError,
        "row ids would change from pass to pass",
    ),
    "augmentation": (Augmented(), ValueError, "train gives other numbers when read again"),
    "items of one part": ([(X[0],), (X[1],), (X[2],)], TypeError, "of 3 items"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_holds_no_examples_is_refused_in_words(what: str):
    data, error, said = REFUSED[what]
    with pytest.raises(error, match=said):
        rows_of(data)


def test_errors_say_what_the_data_are_called():
    with pytest.raises(ValueError, match="the batch has a NaN or infinity, first in example 0"):
        rows_of((spoiled(0, np.nan), Y), name="the batch")


@pytest.mark.parametrize("block", [1, 2, 100])
def test_the_first_bad_example_is_named_whatever_the_block(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PASS", block)
    bad = spoiled(3, np.nan)
    bad[5] = np.inf
    with pytest.raises(ValueError, match="first in example 3:"):
        rows_of((bad, Y))


@pytest.mark.parametrize(
    ("item", "error", "said"),
    [
        (lambda i: X[i], TypeError, r"a batch must be \(inputs, targets\) or a mapping, got Tensor"),
        (lambda i: (X[i], Y[i], Y[i]), TypeError, "got list of 3 items"),
        (
            lambda i: {"x": X[i], "words": "a b"},
            TypeError,
            r"'words' is a list, not a tensor; of a datasets.Dataset",
        ),
    ],
)
def test_what_a_dataset_gives_must_be_a_batch(item: Any, error: type[Exception], said: str):
    class Given(Listed):
        def __getitem__(self, i: int) -> Any:
            return item(i)

    with pytest.raises(error, match=said):
        rows_of(Given())


def test_a_collator_that_loses_examples():
    loader = DataLoader(Listed(), collate_fn=lambda items: (X[:1], Y[:1]))
    with pytest.raises(ValueError, match=r"7 examples were collated to a tensor of shape \(1, 3\)"):
        rows_of(loader)


# -- batches -------------------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(1, 5))
def test_a_batch_is_its_examples(n: int):
    batch = ({"a": X[:n], "b": (Y[:n],)}, X[:n] > 0)
    parts = list(examples(batch))
    assert len(parts) == count(batch) == n
    for i, part in enumerate(parts):
        assert torch.equal(part[0]["a"], X[i])
        assert [leaf.shape for leaf in tensors(batched(part))] == [(1, 3), (1,), (1, 3)]
        assert torch.equal(batched(part)[0]["b"][0], Y[i : i + 1])


def test_the_tensors_of_a_batch_in_their_order():
    batch = {"x": (X, "word"), "y": [Y, 3]}
    found = tensors(batch)
    assert found[0] is X
    assert found[1] is Y
    assert len(found) == 2


def test_targets_are_the_second_part():
    assert targets_of((X, Y)) is Y
    assert targets_of([X, Y]) is Y


def test_on_the_processor_nothing_moves():
    batch = {"x": X, "word": "a"}
    moved = to_device(UserDict(batch), CPU)
    assert type(moved) is dict
    assert moved["x"] is X
    assert moved["word"] == "a"
    assert pinned(batch, CPU) is batch


def test_columns_of_pandas_which_are_read_only_are_copied():
    frame = pd.DataFrame(X.numpy().copy(), columns=["a", "b", "c"])
    found = as_rows((frame, pd.Series(Y.numpy().copy())), CPU, torch.float32)
    inputs, targets = found.take(torch.arange(N))
    assert torch.equal(inputs, X)
    assert torch.equal(targets, Y)
