"""Values that are computed once from an object that never changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, overload

T = TypeVar("T")


class Cached(Protocol):
    """An object with a cache of what was computed from it; a copy starts with an empty one."""

    @property
    def cache(self) -> dict[str, Any]:
        """Values by the name of their property."""


class derived(Generic[T]):  # noqa: N801 - used like `property`
    """A property that is computed once and kept in the object's `cache`, which no copy takes along.

    >>> class Square:
    ...     def __init__(self, side):
    ...         self.side, self.cache = side, {}
    ...
    ...     @derived
    ...     def area(self):
    ...         return self.side**2
    >>> square = Square(3)
    >>> square.area, square.cache
    (9, {'area': 9})
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    @overload
    def __get__(self, holder: None, owner: Any = None) -> derived[T]: ...

    @overload
    def __get__(self, holder: Cached, owner: Any = None) -> T: ...

    def __get__(self, holder: Cached | None, owner: Any = None) -> derived[T] | T:
        if holder is None:
            return self
        name = self.compute.__name__
        if name not in holder.cache:
            holder.cache[name] = self.compute(holder)
        return holder.cache[name]
