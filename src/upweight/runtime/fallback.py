"""The fast way where torch can go it, the slow one where it cannot, and what running out of memory looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def attempt(fast: Callable[[], T], slow: Callable[[], T]) -> T:
    """The fast way, or the slow one where torch cannot do the fast one for some operation."""
    try:
        return fast()
    except (RuntimeError, NotImplementedError) as error:
        if out_of_memory(error):
            raise
        return slow()


def out_of_memory(error: Exception) -> bool:
    """Whether it is for want of memory: on a processor torch has no class for that."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )
