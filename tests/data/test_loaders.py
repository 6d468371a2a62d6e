"""What a loader draws is what training saw: rows and how often, for every sampler of torch and for others."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from upweight.data.examples import as_rows
from upweight.data.loaders import Drawn, Sizes, drawn
from upweight.data.user_terms import batch_index

N = 10
DATA = TensorDataset(torch.arange(N).float()[:, None], torch.arange(N))


class Given(Sampler[Any]):
    """Gives what it is told, one list in each pass, in turn."""

    def __init__(self, *passes: list[Any]) -> None:
        self.passes, self.done = passes, 0

    def __len__(self) -> int:
        return len(self.passes[0])

    def __iter__(self) -> Iterator[Any]:
        self.done += 1
        return iter(self.passes[(self.done - 1) % len(self.passes)])


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


ROWS = {
    "in order": (DataLoader(DATA, batch_size=4), None),
    "some": (DataLoader(DATA, sampler=SubsetRandomSampler([7, 2, 4])), [7, 2, 4]),
    "some, in batches": (
        DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler([7, 2, 4]), 2, True)),
        [7, 2, 4],
    ),
    "some, the last batch dropped, another one each time": (
        DataLoader(DATA, batch_size=2, drop_last=True, sampler=SubsetRandomSampler([7, 2, 4])),
        [7, 2, 4],
    ),
    "all, shuffled": (DataLoader(DATA, sampler=SubsetRandomSampler(range(N))), None),
    "one process's share": (
        DataLoader(DATA, sampler=DistributedSampler(DATA, num_replicas=2, rank=0)),
        None,
    ),
    "a list": (DataLoader(DATA, sampler=[3, 1]), [3, 1]),
    "batches of one's own": (DataLoader(DATA, batch_sampler=[[3, 1], [5]]), [3, 1, 5]),
    "another order each time": (
        DataLoader(DATA, sampler=Given([3, 1, 5], [5, 3, 1], [1, 5, 3])),
        [1, 3, 5],
    ),
    "nothing is left": (DataLoader(DATA, batch_size=5, drop_last=True), None),
}


@pytest.mark.parametrize("kind", ROWS)
def test_the_rows_of_a_loader_are_those_that_its_sampler_draws(kind):
    loader, wanted = ROWS[kind]
    found = drawn(loader, "train")
    assert found.weights is None
    assert (None if found.rows is None else numbers(found.rows)) == wanted
    rows = as_rows(loader, torch.device("cpu"), torch.float32)
    assert rows.take(slice(0, len(rows)))[1].tolist() == (list(range(N)) if wanted is None else wanted)
    assert (None if rows.names is None else rows.names.tolist()) == wanted
    ids = batch_index(loader)
    assert (None if ids is None else ids.tolist()) == wanted


def numbers(found: Any) -> Any:
    """A tensor as a list, None as it is."""
    return None if found is None else found.tolist()


def test_weighted_draws_are_weights_with_mean_one():
    weights = [0.0, *[3.0] * 3, *[1.0] * 6]
    found = drawn(DataLoader(DATA, sampler=WeightedRandomSampler(weights, 50)), "train")
    assert found.rows is not None
    assert numbers(found.rows) == list(range(1, N))
    assert found.weights is not None
    assert torch.allclose(found.weights * 15 / 9, torch.tensor(weights[1:]).double())
    even = drawn(DataLoader(DATA, sampler=WeightedRandomSampler([2.0] * N, 50)), "train")
    assert even.rows is None
    assert even.weights is None


def test_rows_that_come_twice_count_twice():
    found = drawn(DataLoader(DATA, sampler=[4, 0, 4, 4, 0, 9]), "train")
    assert numbers(found.rows) == [4, 0, 9]
    assert numbers(found.weights) == [1.5, 1.0, 0.5]
    found = Drawn.of(torch.tensor([0, 1, 2, 1]), 3)
    assert found.rows is None
    assert numbers(found.weights) == [0.75, 1.5, 0.75]


REFUSED = {
    "shuffled": (DataLoader(DATA, shuffle=True), "make it with shuffle=False"),
    "a last batch left out": (
        DataLoader(DATA, batch_size=4, drop_last=True),
        r"drop_last=True, which leaves out the same 2 of 10 rows .*drop_last=False",
    ),
    "without replacement": (
        DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * N, 5, replacement=False)),
        "draws other rows in each pass: pass its dataset, and weights=",
    ),
    "too few weights": (
        DataLoader(DATA, sampler=WeightedRandomSampler([1.0] * 3, 5)),
        "3 weights for 10 rows",
    ),
    "other rows each time": (
        DataLoader(DATA, sampler=Given([3, 1], [3, 2])),
        "whose Given draws other rows in each pass",
    ),
    "endless": (DataLoader(DATA, sampler=Endless()), "whose Endless draws other rows"),
    "no batches": (
        DataLoader(DATA, batch_size=None),
        "batch_size=None, whose items are taken for whole batches",
    ),
    "rows in a fixed order, the last left out": (
        DataLoader(DATA, batch_size=2, drop_last=True, sampler=SequentialSampler(range(5))),
        "leaves out the same 1 of 5 rows",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_loader_whose_rows_are_not_known_is_refused(kind):
    loader, words = REFUSED[kind]
    with pytest.raises(ValueError, match=words):
        drawn(loader, "train")


def test_looking_at_a_sampler_draws_nothing_from_the_users_generator():
    class Permuted(Given):
        def __iter__(self) -> Iterator[int]:
            return iter(torch.randperm(N).tolist())

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    assert drawn(DataLoader(DATA, sampler=Permuted([0] * N)), "train").rows is None
    assert torch.equal(before, torch.random.get_rng_state())


def test_sizes_are_noted_only_while_somebody_wants_to_know():
    class Ragged(Dataset[Any]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, i: int) -> Any:
            return torch.ones(1 + (i * 7) % 11), torch.tensor(i)

    def pad(items: list[Any]) -> Any:
        inputs = torch.nn.utils.rnn.pad_sequence([x for x, _ in items], batch_first=True)
        return inputs, torch.stack([y for _, y in items])

    rows = as_rows(DataLoader(Ragged(), collate_fn=pad), torch.device("cpu"), torch.float32)
    sizes = rows.sizes
    assert sizes is not None
    chosen = sizes.spread(3)
    lengths = [len(Ragged()[i][0]) for i in chosen]
    assert lengths == [1, 6, 11]
    rows.take(torch.tensor([5]))
    assert sizes.spread(3) == chosen
    sizes = Sizes(pad)
    with sizes:
        sizes.note([Ragged()[1], Ragged()[12]])
    assert sizes.spread(5) == []
