"""One thread at a time: what torch keeps once per process, and modules that are called with other parameters."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")

ALONE = threading.RLock()
"""Held by whoever differentiates a model.

Torch has one level of forward derivatives and one switch of its fast paths per process, and a module is called with
other parameters by putting them in its place for the time of the call: two threads would see each other's.
"""


@contextmanager
def differentiating() -> Iterator[None]:
    """Alone, and as torch is by itself: also inside a user's `no_grad()` or `inference_mode()`.

    >>> with torch.inference_mode(), differentiating():
    ...     torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    (True, False)
    """
    with ALONE, torch.inference_mode(False), torch.enable_grad():
        yield


def alone(function: Callable[P, T]) -> Callable[P, T]:
    """The function, run by one thread at a time among all that are marked so; a thread may call another from inside.

    It can differentiate wherever it is called, see `differentiating`.

    >>> alone(max)(1, 2)
    2
    """

    @functools.wraps(function)
    def locked(*args: P.args, **kwargs: P.kwargs) -> T:
        with differentiating():
            return function(*args, **kwargs)

    return locked


def each_alone(cls: type[C]) -> type[C]:
    """The class, each of whose public methods runs `alone`."""
    for name, method in list(vars(cls).items()):
        if isinstance(method, FunctionType) and not name.startswith("_"):
            setattr(cls, name, alone(method))
    return cls
