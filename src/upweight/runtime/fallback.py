"""The fast way where torch can go it, the slow one where it cannot, and what running out of memory looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def attempt(fast: Callable[[], T], slow: Callable[[], T]) -> T:
    """Go the fast way, or the slow one where torch cannot do the fast one for some operation.

    `torch.func` raises RuntimeError or NotImplementedError for operations that it cannot vectorise or differentiate
    (control flow by the data, `.item()`). Running out of memory is no such reason and is raised: smaller blocks help
    then, a slower way does not.

    Args:
        fast: what is tried first.
        slow: what gives the same answer for every model.

    >>> attempt(lambda: torch.func.vmap(torch.Tensor.item)(torch.ones(2)), lambda: "example by example")
    'example by example'
    """
    try:
        return fast()
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        return slow()


def out_of_memory(error: Exception) -> bool:
    """Whether an exception of torch is for want of memory, on a GPU or on a processor.

    On a processor torch has no class for that: the allocator raises a plain RuntimeError, known by its words.

    >>> (
    ...     out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")),
    ...     out_of_memory(ValueError("no")),
    ... )
    (True, False)
    """
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
