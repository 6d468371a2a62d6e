"""Objects that never change, copies of them with other fields, and values that are computed from them once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any, Generic, TypeVar, overload

from ..types import Tensor

T = TypeVar("T")
Self = TypeVar("Self", bound="Unchanging")


class Unchanging:
    """An object whose fields are set once, when it is made; other fields are those of another object.

    What is computed from it lives in one `cache`, which a copy does not take along, so that no answer can be about
    fields that the object no longer has.

    >>> class Square(Unchanging):
    ...     side: int
    ...
    ...     @derived
    ...     def area(self):
    ...         return self.side**2
    >>> square = Square(side=3)
    >>> square.area, square.cache["area"], square._copy(side=4).area
    (9, 9, 16)
    """

    cache: dict[str, Any]
    """What was computed from the fields, by name."""

    def __init__(self, **fields: Any) -> None:
        vars(self).update(fields)
        vars(self)["cache"] = {"versions": versions_of(fields)}

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(
            f"a {type(self).__name__} does not change, so that no answer can be about another one: {name!r} cannot be "
            f"set; take a copy, by changed({name}=...) where there is such a field"
        )

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} does not change: {name!r} cannot be deleted")

    def _copy(self: Self, **fields: Any) -> Self:
        """A copy with other values of these fields, which somebody has checked: the one place where copies are made.

        The copy shares all other fields and starts with an empty cache.
        """
        other = copy.copy(self)
        vars(other).update(fields)
        vars(other)["cache"] = {"versions": versions_of(vars(other))}
        return other

    def written(self) -> list[str]:
        """The names of fields that somebody has written into since the object was made, by torch's count of changes.

        Tensors are seen, alone or as a field of a dataclass (the l2 of a penalty); a write that torch does not count,
        through NumPy say, is not.

        >>> import torch
        >>> held = Unchanging(theta=torch.zeros(2))
        >>> held.theta.add_(1)
        tensor([1., 1.])
        >>> held.written()
        ['theta']
        """
        now = versions_of(vars(self))
        return [name for name, before in self.cache["versions"].items() if now[name] != before]


def versions_of(fields: dict[str, Any]) -> dict[str, int]:
    """How often torch has seen each tensor, among the fields or inside a dataclass among them, change in place.

    Tensors of inference mode have no such count and are left out.
    """
    tensors = {}
    for name, value in fields.items():
        if isinstance(value, Tensor):
            tensors[name] = value
        elif is_dataclass(value):
            tensors |= {key: inner for key, inner in vars(value).items() if isinstance(inner, Tensor)}
    return {name: value._version for name, value in tensors.items() if not value.is_inference()}


class derived(Generic[T]):  # noqa: N801 - used like `property`
    """A property of an `Unchanging` object that is computed once, at its first use, and kept in its cache.

    Unlike `functools.cached_property` it does not live among the fields, which a copy takes along, so that a changed
    copy computes it anew. See `Unchanging` for an example.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute, self.__doc__ = compute, compute.__doc__

    @overload
    def __get__(self, holder: None, owner: Any = None) -> derived[T]: ...

    @overload
    def __get__(self, holder: Unchanging, owner: Any = None) -> T: ...

    def __get__(self, holder: Unchanging | None, owner: Any = None) -> derived[T] | T:
        if holder is None:
            return self
        name = self.compute.__name__
        if name not in holder.cache:
            holder.cache[name] = self.compute(holder)
        return holder.cache[name]
