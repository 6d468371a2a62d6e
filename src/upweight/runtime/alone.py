"""One thread at a time: what torch keeps once per process, and modules that are called with other parameters."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ALONE = threading.RLock()
"""Held by whoever differentiates a model.

Torch has one level of forward derivatives and one switch of its fast paths per process, and a module is called with
other parameters by putting them in its place for the time of the call: two threads would see each other's.
"""


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run by one thread at a time among all that are marked so; a thread may call another from inside.

    >>> alone(max)(1, 2)
    2
    """

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        with ALONE:
            return function(*args, **kwargs)

    return locked
