"""Reading ahead: the next block of data is fetched by another thread while one is in use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")

_readers = 0
_threads = 0
"""What torch had before the first of the readers began."""


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """Hand on the items in order, and make the next one in another thread while one is in use.

    For items that wait for a disk or for a copy to a GPU: a pass then takes the longer of reading and computing, not
    their sum. Memory: two items. While it runs, torch has one core less for itself. An exception of the reader reaches
    whoever iterates, at the item that it was raised for; the thread ends with the iteration, also with one cut off.

    Args:
        items: made one at a time, never two at once.

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
    """One core is for reading, torch has the others: its threads wait for each other by spinning."""
    global _readers, _threads
    if _readers == 0:
        _threads = torch.get_num_threads()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, min(_threads, cores - 1)))
    _readers += 1
    try:
        yield
    finally:
        _readers -= 1
        if _readers == 0:
            torch.set_num_threads(_threads)
