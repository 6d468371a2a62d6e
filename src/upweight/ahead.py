"""Reading ahead: the next block of data is fetched by another thread while one is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in order; the next one is made while one is in use.

    >>> list(ahead(iter([1, 2, 3])))
    [1, 2, 3]
    """
    end: Any = object()
    with _one_core_left(), ThreadPoolExecutor(1) as reader:
        coming = reader.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = reader.submit(next, items, end)
            yield item


@contextmanager
def _one_core_left() -> Iterator[None]:
    """Torch computes on all cores but one, which reads: its threads wait for each other by spinning."""
    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(max(1, min(threads, cores - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
