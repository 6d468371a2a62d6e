"""Which rows of its data set a DataLoader trains on, and how often each: what its sampler says."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.utils._pytree import tree_leaves
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from ..types import Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """The rows of a data set that training sees, and how often.

    Args:
        rows: their numbers in the data set (b,), or None for all of them in order.
        weights: how often each is drawn, with mean 1 (b,), or None where all come equally often.
    """

    rows: Int[Tensor, " b"] | None = None
    weights: Float[Tensor, " b"] | None = None

    @classmethod
    def of(cls, order: Int[Tensor, " s"], n: int) -> Drawn:
        """The rows of one pass over n rows, in the order of their first coming; one that comes twice counts twice."""
        rows, inverse, counts = order.unique(return_inverse=True, return_counts=True)
        first = torch.full_like(rows, len(order)).scatter_reduce(0, inverse, torch.arange(len(order)), "amin")
        rows, counts = rows[first.argsort()], counts[first.argsort()].double()
        everything = len(rows) == n and bool((rows == torch.arange(n)).all())
        uneven = bool((counts != counts[0]).any()) if len(counts) else False
        return cls(None if everything else rows, counts / counts.mean() if uneven else None)


class Sizes:
    """How large each example is when it is collated alone, noted inside `with` while all of them are read in order.

    A collator that pads to the longest example of a batch makes another tensor of an example in every company.

    Args:
        collate: makes a batch of items.
    """

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate, self._noting = collate, False
        self._found: list[tuple[torch.Size, ...]] = []

    def __enter__(self) -> None:
        self._noting, self._found = True, []

    def __exit__(self, *error: object) -> None:
        self._noting = False

    def note(self, items: list[Any]) -> None:
        """Note the size of each item, if somebody wants to know."""
        if self._noting:
            leaves = (tree_leaves(self._collate([item])) for item in items)
            self._found += [tuple(leaf.shape for leaf in one if isinstance(leaf, Tensor)) for one in leaves]

    def spread(self, most: int) -> list[int]:
        """Examples from the smallest to the largest, evenly spaced among the sizes; none where all are equally large.

        `most` is how many, at least 2; they are numbered in the order in which they were read.
        """
        if len(set(self._found)) < 2:
            return []
        by_size = {size: i for i, size in enumerate(self._found)}
        ordered = sorted(by_size, key=lambda shapes: sum(shape.numel() for shape in shapes))
        places = torch.linspace(0, len(ordered) - 1, min(most, len(ordered))).long()
        return [by_size[ordered[place]] for place in places.tolist()]


def drawn(loader: DataLoader[Any], name: str) -> Drawn:
    """The rows that a loader draws from its data set in training, by its sampler.

    A `SubsetRandomSampler` draws its indices, a `WeightedRandomSampler` every row as often as its weight says, a
    `DistributedSampler` all rows, on one process or another. Any other sampler is gone through twice.

    Args:
        loader: of a data set with a length.
        name: what the data are called in errors.

    Raises:
        ValueError: for a loader that shuffles, that leaves a last batch out, and one whose sampler draws other rows in
            each pass.

    >>> from torch.utils.data import TensorDataset
    >>> loader = DataLoader(TensorDataset(torch.eye(4)), sampler=SubsetRandomSampler([3, 1]))
    >>> drawn(loader, "train").rows
    tensor([3, 1])
    """
    batches: Any = loader.batch_sampler
    n = len(loader.dataset)  # type: ignore[arg-type]
    if batches is None:
        raise ValueError(
            f"{name} is a DataLoader with batch_size=None, whose items are taken for whole batches: give one that "
            "makes the batches itself (batch_size=...), or a data set of single examples"
        )
    plain = type(batches) is BatchSampler
    sampler = batches.sampler if plain else batches
    if isinstance(getattr(batches, "sampler", sampler), RandomSampler):
        raise ValueError(
            f"{name} is a DataLoader that shuffles, so row ids would change from pass to pass: "
            "make it with shuffle=False, or pass its dataset"
        )
    if isinstance(sampler, WeightedRandomSampler):
        return _weighted(sampler, n, name)
    if isinstance(sampler, DistributedSampler):
        return Drawn()
    if isinstance(sampler, SubsetRandomSampler):
        return Drawn.of(torch.as_tensor(list(sampler.indices)), n)
    if type(sampler) is SequentialSampler and len(sampler) == n:
        order, fixed = torch.arange(n), True
    else:
        order, fixed = _gone_through(sampler, n, name)
    left = len(order) % batches.batch_size if plain and batches.drop_last and fixed else 0
    if left:
        raise ValueError(
            f"{name} is a DataLoader with drop_last=True, which leaves out the same {left} of {len(order)} rows in "
            "each pass: make it with drop_last=False, or, if training never saw them, pass a "
            "torch.utils.data.Subset of the rows that it saw"
        )
    return Drawn.of(order, n)


def _weighted(sampler: WeightedRandomSampler, n: int, name: str) -> Drawn:
    """Draws with replacement: in the mean over passes the loss of each row has its weight."""
    weights = torch.as_tensor(sampler.weights, dtype=torch.float64)
    if not sampler.replacement:
        raise ValueError(
            f"{name} is a DataLoader with WeightedRandomSampler(replacement=False), which draws other rows in each "
            "pass: pass its dataset, and weights= how often each row was drawn over their mean"
        )
    if len(weights) != n:
        raise ValueError(f"{name}: the sampler has {len(weights)} weights for {n} rows of the data set")
    rows = weights.nonzero()[:, 0]
    some = weights[rows]
    even = bool((some == some[0]).all()) if len(some) else True
    return Drawn(None if len(rows) == n else rows, None if even else some / some.mean())


def _gone_through(sampler: Iterable[Any], n: int, name: str) -> tuple[Int[Tensor, " s"], bool]:
    """The rows that a sampler gives, sorted unless they come in the same order the second time; whether they do."""
    most = 100 * n + 1000
    with torch.random.fork_rng(devices=[]):
        first, second = (list(itertools.islice(_numbers(sampler), most)) for _ in range(2))
    if len(first) == most or sorted(first) != sorted(second):
        raise ValueError(
            f"{name} is a DataLoader whose {type(sampler).__name__} draws other rows in each pass, so that nothing "
            "says how often each row counts: pass its dataset, or a torch.utils.data.Subset of the rows that training "
            "saw, and weights= how often each was drawn over their mean"
        )
    fixed = first == second
    return torch.tensor(first if fixed else sorted(first), dtype=torch.int64), fixed


def _numbers(sampler: Iterable[Any]) -> Iterator[int]:
    """The row numbers of a sampler, of batches or of rows."""
    for drawn_now in sampler:
        if isinstance(drawn_now, (list, tuple)):
            yield from map(int, drawn_now)
        else:
            yield int(drawn_now)
