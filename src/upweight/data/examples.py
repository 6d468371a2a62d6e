"""Where examples come from: tensors or arrays, a mapping of them, a map-style Dataset or a DataLoader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, final

import numpy as np
import pandas as pd
import torch
import xxhash
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate

from ..runtime.prefetch import ahead
from ..types import Tensor, as_tensor
from .loaders import Drawn, Sizes, drawn
from .names import same_order
from .user_terms import row_index
from .watch import Watch

PASS = 1024
"""Examples per block where the data are only read: checks and hashes."""

TWICE = 8
"""Examples that are read again to see whether they stay the same."""

WATCHED_BYTES = 4 << 20
"""Examples in memory up to this size are all read again at each question, of larger ones a sample."""
SAMPLE_BYTES = 1 << 20
"""The size of that sample."""


@final
class Rows:
    """Training or test examples, wherever they come from: `len(rows)` of them, some at a time as a batch on a device.

    `as_rows` makes them of what users have.

    Args:
        n: how many there are.
        fetch: gives the examples of an index (b,) or slice as a batch.
        device: where batches go.
        slow: whether fetching takes long enough (a disk, a Dataset) to be done ahead by another thread.
        held: the tensors in memory, if any, that examples are rows of, to be watched for changes.
        seen: which rows of a data set they are, where a loader draws some of them, and how often.
        sizes: notes, as examples are read, how large each is as a batch of one.

    >>> rows = as_rows((torch.eye(3), [0, 1, 2]), torch.device("cpu"), torch.float32)
    >>> len(rows), rows.take(torch.tensor([2]))[1]
    (3, tensor([2]))
    """

    def __init__(
        self,
        n: int,
        fetch: Callable[[Tensor | slice], Any],
        device: torch.device,
        *,
        slow: bool = False,
        held: Sequence[Tensor] = (),
        seen: Drawn | None = None,
        sizes: Sizes | None = None,
    ) -> None:
        self.seen, self.sizes = seen or Drawn(), sizes
        self._n, self._fetch, self._device = n, fetch, device
        self._slow = slow or device.type != "cpu"  # worth reading ahead
        self._held = held  # the tensors that examples are rows of

    def __len__(self) -> int:
        return self._n

    def take(self, index: Tensor | slice) -> Any:
        """Examples by their numbers (b,) or a slice, as one batch on the device, in the order of the index."""
        return to_device(self._fetch(index), self._device)

    def blocks(self, size: int, within: slice | None = None) -> Iterator[tuple[slice, Any]]:
        """All examples, or those `within`, in order and `size` at a time: the place of each block, and its batch.

        The last block may be smaller. Slow sources are read ahead by a thread, one block early; what goes to a GPU is
        copied from pinned memory while the device works.
        """
        start, stop, _ = (within or slice(None)).indices(self._n)
        parts = (slice(first, min(first + size, stop)) for first in range(start, stop, size))
        if not self._slow:
            yield from ((part, self.take(part)) for part in parts)
            return
        for part, batch in ahead((part, pinned(self._fetch(part), self._device)) for part in parts):
            yield part, to_device(batch, self._device)

    def subset(self, index: Tensor) -> Rows:
        """Some of the examples, (b,) by their numbers, in the order of the index; nothing is copied yet."""
        return Rows(len(index), self._picked(index), self._device, slow=self._slow)

    def mapped(self, change: Callable[[Tensor | slice, Any], Any]) -> Rows:
        """The examples as a function of their numbers and a batch of them changes it, each time they are fetched."""
        return Rows(self._n, lambda index: change(index, self.take(index)), self._device)

    def _picked(self, index: Tensor) -> Callable[[Tensor | slice], Any]:
        """Gives some of these examples by their numbers among the picked ones."""
        chosen = index.cpu()
        return lambda inner: self._fetch(chosen[inner if isinstance(inner, slice) else inner.cpu()])

    def drawn(self, seen: Drawn) -> Rows:
        """The examples that a loader draws from these, which remember their numbers and how often they are drawn."""
        n, fetch = self._n, self._fetch
        if seen.rows is not None:
            n, fetch = len(seen.rows), self._picked(seen.rows)
        return Rows(n, fetch, self._device, slow=self._slow, held=self._held, seen=seen, sizes=self.sizes)

    @property
    def names(self) -> pd.Index | None:
        """The numbers in their data set of examples that a loader drew from it, or None where they are all of it."""
        return None if self.seen.rows is None else pd.Index(self.seen.rows.tolist())

    def watched(self) -> Watch:
        """What tells from now on whether the examples are still the same ones.

        It looks at `TWICE` examples as they are read, at tensors in memory whole up to `WATCHED_BYTES`, else at rows of
        `SAMPLE_BYTES` and at torch's count of changes.
        """
        size = sum(leaf.nbytes for leaf in self._held)
        few = self._n if size <= WATCHED_BYTES else max(TWICE, SAMPLE_BYTES * self._n // size)
        index, read = _evenly(few, self._n), _evenly(TWICE, self._n)

        def sample() -> list[Tensor]:
            here = [leaf[index if isinstance(index, slice) else index.to(leaf.device)] for leaf in self._held]
            return [*here, *tensors(self._fetch(read))]

        return Watch(sample, self._held)

    def digest(self) -> Tensor:
        """A content hash (16,) of all examples, as bytes, by one pass: equal for equal numbers in equal order."""
        digest = xxhash.xxh3_128()
        for _, batch in self.blocks(PASS):
            for leaf in tensors(batch):
                digest.update(leaf.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def as_rows(data: Any, device: torch.device, dtype: torch.dtype | None, name: str = "train") -> Rows:
    """Make `Rows` of any data that a `Problem` accepts, and check all of them by one pass.

    Args:
        data: (inputs, targets) of tensors or arrays, memory-mapped ones too; a mapping of them; a map-style Dataset; a
            DataLoader of one that does not shuffle, whose collator is kept.
        device: where batches go.
        dtype: the model's precision, which real numbers must have; None: any.
        name: what the data are called in errors.

    Raises:
        TypeError: for data of another form and for real numbers of another precision.
        ValueError: for no examples, unequal lengths, a NaN or infinity (with the first example's number), examples that
            cannot be collated, a loader that shuffles, and examples that read differently the second time.
    """
    rows = _source(data, device, name)
    if len(rows) == 0:
        raise ValueError(f"{name} is empty: give at least one example")
    with rows.sizes or nullcontext():
        for part, batch in rows.blocks(PASS):
            _check(batch, part, dtype, name)
    once, again = (tensors(rows.take(slice(0, min(TWICE, len(rows))))) for _ in range(2))
    if not all(torch.equal(a, b) for a, b in zip(once, again, strict=True)):
        raise ValueError(
            f"{name} gives other numbers when read again (augmentation, or a collator that masks at random?): "
            "examples must be the same in every pass"
        )
    return rows


def _evenly(k: int, n: int) -> Tensor | slice:
    """So many of n places, evenly spaced: all of them where there are no more."""
    return slice(0, n) if k >= n else torch.linspace(0, n - 1, k, dtype=torch.float64).long()


def tensors(batch: Any) -> list[Tensor]:
    """All tensors of a batch, however tuples, lists and mappings are nested in it, in their order."""
    return [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]


def count(batch: Any) -> int:
    """The number of examples of a batch: the length of its first tensor."""
    return len(tensors(batch)[0])


def batched(example: Any) -> Any:
    """One example as a batch of one: every tensor gets a first dimension of size 1."""
    return tree_map(lambda leaf: leaf[None], example)


def examples(batch: Any) -> Iterator[Any]:
    """The examples of a batch one by one, without their batch dimension: views, in order. See `batched`."""
    for i in range(count(batch)):
        yield tree_map(lambda leaf, i=i: leaf[i], batch)


def targets_of(batch: Any) -> Any:
    """What a loss gets as its second argument: the targets of (inputs, targets), or the whole of a mapping.

    >>> targets_of((torch.zeros(1, 2), torch.tensor([1])))
    tensor([1])
    """
    return batch if isinstance(batch, dict) else batch[1]


HALF = (torch.bfloat16, torch.float16)
"""Precisions that are computed with in float32: torch has no factorisations in them."""


def to_device(batch: Any, device: torch.device) -> Any:
    """The batch with every tensor on `device`; mappings become dicts, which torch.func can look into.

    Numbers in half precision become float32. On a GPU the copy is not waited for: what is pinned is copied while the
    device works on what came before.
    """
    if isinstance(batch, Mapping):
        batch = dict(batch)
    goes_on = device.type == "cuda"  # what is pinned is copied while the device works on what came before

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        there = leaf.to(device, non_blocking=goes_on)
        return there.float() if there.dtype in HALF else there

    return tree_map(moved, batch)


def pinned(batch: Any, device: torch.device) -> Any:
    """The batch in memory that a GPU copies from by itself; as it is where `device` is the processor."""
    if device.type != "cuda":
        return batch
    return tree_map(
        lambda leaf: leaf.pin_memory() if isinstance(leaf, Tensor) and leaf.device.type == "cpu" else leaf,
        batch,
    )


def _source(data: Any, device: torch.device, name: str) -> Rows:
    if isinstance(data, DataLoader):
        rows = _dataset(data.dataset, data.collate_fn or default_collate, device, name)
        return rows.drawn(drawn(data, name))
    if isinstance(data, Mapping):
        return _columns(dict(data), device, name)
    if isinstance(data, (tuple, list)):
        if len(data) != 2:
            raise TypeError(
                f"{name} must be (inputs, targets), got a {type(data).__name__} of {len(data)} items"
            )
        return _columns((data[0], data[1]), device, name)
    return _dataset(data, default_collate, device, name)


def _columns(data: Any, device: torch.device, name: str) -> Rows:
    """Tensors or arrays with one example per entry of the first dimension."""
    if isinstance(data, tuple):
        same_order(data[1], row_index(data[0]), "the targets")
        columns: Any = tuple(_tensor(column, name) for column in data)
    else:
        columns = {key: _tensor(column, f"{name}[{key!r}]") for key, column in data.items()}
    leaves = [leaf for leaf in tree_leaves(columns) if isinstance(leaf, (Tensor, np.memmap))]
    lengths = [len(leaf) for leaf in leaves]
    if not leaves:
        raise ValueError(f"{name} is empty: give at least one tensor")
    if len(set(lengths)) > 1:
        parts = "inputs, targets" if isinstance(data, tuple) else ", ".join(map(str, data))
        raise ValueError(
            f"{name}: {parts} have {', '.join(map(str, lengths))} examples; lengths must be equal"
        )

    def fetch(index: Tensor | slice) -> Any:
        def pick(leaf: Tensor | np.memmap) -> Tensor:
            if isinstance(leaf, np.memmap):
                return torch.from_numpy(
                    np.array(leaf[index if isinstance(index, slice) else index.cpu().numpy()])
                )
            return leaf[index if isinstance(index, slice) else index.to(leaf.device)]

        return tree_map(pick, columns)

    on_disk = any(isinstance(leaf, np.memmap) for leaf in leaves)
    held = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    return Rows(lengths[0], fetch, device, slow=on_disk, held=held)


def _tensor(column: Any, name: str) -> Any:
    """Arrays and lists of numbers -> tensors; tuples and dicts of tensors (models with many inputs) stay nested.

    A memory-mapped array stays on disk: only what is picked of it becomes a tensor.
    """
    if isinstance(column, Tensor):
        # What was made in inference mode cannot be differentiated through, a copy can.
        tensor: Any = column.clone() if column.is_inference() else column.detach()
    elif isinstance(column, np.memmap) and column.dtype.kind in "fiub":
        tensor = column
    elif isinstance(column, dict):
        return {key: _tensor(part, name) for key, part in column.items()}
    elif isinstance(column, tuple) and all(isinstance(part, (Tensor, np.ndarray)) for part in column):
        return tuple(_tensor(part, name) for part in column)
    else:
        try:
            tensor = as_tensor(column)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{name} must hold tensors or arrays of numbers, got {type(column).__name__} ({error})"
            ) from error
    if tensor.ndim == 0:
        raise ValueError(f"{name} holds a single number; the first dimension must count the examples")
    return tensor


def _dataset(data: Any, collate: Callable[[list[Any]], Any], device: torch.device, name: str) -> Rows:
    if isinstance(data, IterableDataset) or not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        raise TypeError(
            f"{name} must be (inputs, targets), a mapping of tensors, a map-style Dataset or a DataLoader of one, "
            f"got {type(data).__name__}; examples need an index and a length"
        )

    def fetch(index: Tensor | slice) -> Any:
        wanted = range(len(data))[index] if isinstance(index, slice) else index.tolist()
        items = data.__getitems__(list(wanted)) if whole else [data[i] for i in wanted]
        try:
            batch = collate(items)
            if sizes is not None:
                sizes.note(items)
            return batch
        except RuntimeError as error:
            if collate is not default_collate:
                raise
            raise ValueError(
                f"{name}: examples could not be made one batch ({error}); where their lengths differ, give a "
                "DataLoader(dataset, collate_fn=...) whose collator pads"
            ) from error

    whole = hasattr(data, "__getitems__")  # many at once, as a DataLoader does
    sizes = None if collate is default_collate else Sizes(collate)  # torch's own needs equal sizes
    held = data.tensors if isinstance(data, TensorDataset) else ()
    return Rows(len(data), fetch, device, held=held, sizes=sizes)


def _check(batch: Any, part: slice, dtype: torch.dtype | None, name: str) -> None:
    if not isinstance(batch, dict) and not (isinstance(batch, (tuple, list)) and len(batch) == 2):
        raise TypeError(
            f"{name}: a batch must be (inputs, targets) or a mapping, got {type(batch).__name__}"
            + (f" of {len(batch)} items" if isinstance(batch, (tuple, list)) else "")
        )
    for key, column in batch.items() if isinstance(batch, dict) else ():
        if isinstance(column, list):
            raise TypeError(
                f"{name}: {key!r} is a list, not a tensor; of a datasets.Dataset take "
                ".with_format('torch', columns=[...]) with the columns that model and loss need"
            )
    size = part.stop - part.start
    for leaf in tensors(batch):
        if leaf.ndim == 0 or len(leaf) != size:
            raise ValueError(
                f"{name}: {size} examples were collated to a tensor of shape {tuple(leaf.shape)}"
            )
        if not leaf.is_floating_point():
            continue
        if dtype is not None and leaf.dtype != dtype:
            raise TypeError(
                f"{name} holds {leaf.dtype} numbers, the model has {dtype} parameters: "
                f"convert the data with .to({dtype}) or the model with model.to({leaf.dtype})"
            )
        bad = ~leaf.flatten(1).isfinite().all(1) if leaf.ndim > 1 else ~leaf.isfinite()
        if bool(bad.any()):
            first = part.start + int(bad.nonzero()[0, 0])
            raise ValueError(
                f"{name} has a NaN or infinity, first in example {first}: drop or repair that example"
            )
