"""Several processes on one job, started by torchrun: each holds the whole problem and works on its share of the data.

Every rank asks the same questions in the same order and gets the same, whole answers. On one process all of this is the
identity, so that no second code path exists. Messages about the work go over gloo, sums over the devices' own backend.
"""

from __future__ import annotations

import atexit
import datetime
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float

from ..errors import RankError
from ..types import Tensor
from .process import started_with_others

PATIENCE = datetime.timedelta(minutes=30)
"""How long a rank waits for another."""

_alone = 0
_last: Any = None


def ranks() -> int:
    """The number of processes that work on this job; 1 where torchrun did not start it, and inside `alone`.

    The first call joins the others, so that nobody has to say so: what torchrun has put into the environment is enough.

    >>> ranks(), rank()
    (1, 0)
    """
    if _alone or not dist.is_available():
        return 1
    if not dist.is_initialized():
        if not started_with_others():
            return 1
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        store, own, count = next(dist.rendezvous("env://", timeout=PATIENCE))  # type: ignore[attr-defined]
        # On one node torchrun keeps its store through restarts, with the addresses of processes that are gone.
        if os.environ.get("LOCAL_WORLD_SIZE") == str(count):
            attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
            store = dist.PrefixStore(f"attempt {attempt}", store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=own, world_size=count, timeout=PATIENCE)
        atexit.register(_leave)
    return dist.get_world_size()


def rank() -> int:
    """The number of this process, from 0; the first one writes files and speaks on the terminal, all others listen."""
    return dist.get_rank() if ranks() > 1 else 0


def shard(n: int) -> slice:
    """This rank's part of n things in order: consecutive, every thing in one part, and parts differ by one at most.

    With fewer things than ranks some parts are empty.

    >>> shard(5)
    slice(0, 5, None)
    """
    r, count = rank(), ranks()
    return slice(n * r // count, n * (r + 1) // count)


def own_seed(generator: torch.Generator) -> int:
    """A seed for this rank, unlike that of every other: draws of several ranks are then independent.

    The generator, which all ranks hold in the same state, moves on alike on each.

    >>> own_seed(torch.Generator().manual_seed(0)) == own_seed(torch.Generator().manual_seed(0))
    True
    """
    return int(torch.randint(1 << 62, (1,), generator=generator)) + rank()


def sum_across(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all ranks, written into `values` and returned, the same bits on each.

    Args:
        values: this rank's part, of one shape, precision and kind of device on all ranks.

    >>> sum_across(torch.ones(2))
    tensor([1., 1.])
    """
    if ranks() > 1:
        _finish(dist.all_reduce(values, async_op=True))
    return values


def gather_rows(values: Tensor) -> Tensor:
    """The rows of all ranks, in the order of the ranks, on each of them; ranks may hold unequally many, or none.

    With `shard` this is the way from parts to the whole: what each rank computed for its share comes back in order.

    Args:
        values: this rank's rows (b, ...), of equal shape but for b on all ranks.

    >>> gather_rows(torch.ones(2))
    tensor([1., 1.])
    """
    return values if ranks() == 1 else torch.cat(_rows_of_all(values, None))


def gather_objects(thing: Any) -> list[Any]:
    """One small object of each rank, in their order, on each of them: settings, words, exceptions' texts.

    Objects go as pickles, which only processes of one job exchange, nobody else.

    >>> gather_objects("a")
    ['a']
    """
    if ranks() == 1:
        return [thing]
    written = torch.frombuffer(bytearray(pickle.dumps(thing)), dtype=torch.uint8)
    return [pickle.loads(part.numpy().tobytes()) for part in _rows_of_all(written, _control())]


def _rows_of_all(values: Tensor, group: Any) -> list[Tensor]:
    """The rows of each rank."""
    counts = [int(count) for count in _all(torch.tensor([len(values)]), _control())]
    room = values.new_zeros(max(counts), *values.shape[1:])
    room[: len(values)] = values
    return [part[:count] for part, count in zip(_all(room, group), counts, strict=True)]


def _all(values: Tensor, group: Any) -> list[Tensor]:
    """A tensor of each rank, all of one shape."""
    found = [torch.empty_like(values) for _ in range(ranks())]
    _finish(dist.all_gather(found, values, group=group, async_op=True))
    return found


def _finish(message: Any) -> None:
    """Wait for a message, and hold on to it until the next one.

    Whoever lets go of a message last needs the interpreter. If that were gloo's thread, as the process ends, the
    process would be aborted.
    """
    global _last
    message.wait()
    _last = message


def agree(trouble: BaseException | str | None = None) -> None:
    """Wait for all ranks; if one brings trouble, raise `RankError` on every rank, which says whose it is.

    On one process the exception itself is raised.
    """
    if ranks() == 1:
        if trouble is not None:
            raise trouble if isinstance(trouble, BaseException) else RankError(trouble)
        return
    said = None if trouble is None else str(trouble) or type(trouble).__name__
    heard = [f"rank {r}: {words}" for r, words in enumerate(gather_objects(said)) if words is not None]
    if heard:
        raise RankError("; ".join(heard)) from (trouble if isinstance(trouble, BaseException) else None)


@contextmanager
def together() -> Iterator[None]:
    """Inside, ranks do different things: when all are through, what kept one of them from it is raised on every rank.

    That are files that cannot be written or are not what they should be (OSError, ValueError).
    """
    trouble: BaseException | None = None
    try:
        yield
    except (OSError, ValueError) as error:
        trouble = error
    agree(trouble)


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this rank works for itself: `ranks()` is 1, nothing is divided and nobody is waited for.

    Retrainings are shared out whole, each trained by one rank.

    >>> with alone():
    ...     ranks()
    1
    """
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@cache
def _control() -> Any:
    """A group whose messages need no accelerator."""
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=PATIENCE)


def _leave() -> None:
    _control.cache_clear()
    if dist.is_initialized():
        dist.destroy_process_group()
