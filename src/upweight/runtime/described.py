"""What an object computes, in words that are equal in every process: its code, and every value that the code reads."""

from __future__ import annotations

import dis
import enum
import functools
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from ..types import Tensor
from .fingerprint import content_hash

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, type(...), enum.Enum, np.generic)
PLAIN_OF_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout)
SPACES = (types.SimpleNamespace,)
DEEPEST = 20
"""How far objects inside of objects are followed; what is deeper goes by its class."""
OWN = frozenset(vars(torch.nn.Module())) - {"training"}
"""What every module has and does not compute with."""


def described(thing: Any, *, state: bool = True) -> dict[str, str]:
    """What a function, module or other object computes: words by the place inside it that they are about.

    Of functions there are the code, default arguments, the values of their closure and of the globals that they read;
    of objects their class and attributes; of modules also the classes of their parts, what those are set to, and their
    hooks. Functions of installed packages go by their names. Nothing in it is an address, so equal objects are
    described alike in every process.

    Args:
        thing: what is described.
        state: whether the numbers of a module's parameters and buffers are part of it; else their shapes.

    >>> described(functools.partial(max, 2)) == described(functools.partial(max, 2))
    True
    >>> described(torch.nn.Softplus(1.0)) == described(torch.nn.Softplus(2.0))
    False
    """
    walk = _Walk(state)
    walk.see("", thing, 0)
    return walk.words


class _Walk:
    """Goes through an object once; what comes again is named by where it was first."""

    def __init__(self, state: bool) -> None:
        self.words: dict[str, str] = {}
        self._state = state
        self._places: dict[int, str] = {}
        self._kept: list[Any] = []  # so that no id is used again meanwhile

    def see(self, place: str, thing: Any, depth: int) -> None:
        """Describe what stands at a place, and what is inside it."""
        if isinstance(thing, (*PLAIN, *PLAIN_OF_TORCH)):
            self.words[place] = f"{type(thing).__name__} {thing!r}"
            return
        if id(thing) in self._places or depth > DEEPEST:
            self.words[place] = f"as {self._places.get(id(thing), type(thing).__qualname__)}"
            return
        self._places[id(thing)] = place
        self._kept.append(thing)
        self.words[place] = f"{_named(thing)} {_amount(thing)}"
        for name, part in self._parts(thing):
            self.see(f"{place}.{name}", part, depth + 1)

    def _parts(self, thing: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(thing, (Tensor, np.ndarray)):
            return
        if isinstance(thing, Mapping):
            yield from (
                (repr(key) if isinstance(key, PLAIN) else f"{i}", thing[key]) for i, key in enumerate(thing)
            )
        elif isinstance(thing, (set, frozenset)):
            yield "members", sorted(map(repr, thing))
        elif isinstance(thing, (list, tuple)):
            yield from ((str(i), part) for i, part in enumerate(thing))
        elif isinstance(thing, functools.partial):
            yield from (("func", thing.func), ("args", thing.args), ("keywords", thing.keywords))
        elif isinstance(thing, types.MethodType):
            yield from (("function", thing.__func__), ("self", thing.__self__))
        elif isinstance(thing, types.FunctionType):
            yield from _parts_of_function(thing)
        elif isinstance(thing, types.CodeType):
            yield from (("code", thing.co_code), ("constants", thing.co_consts), ("names", thing.co_names))
        elif isinstance(thing, type):
            yield from _parts_of_class(thing)
        elif isinstance(thing, torch.nn.Module):
            yield from self._parts_of_module(thing)
        elif not isinstance(thing, (types.ModuleType, types.BuiltinFunctionType)):
            yield from _parts_of_object(thing)

    def _parts_of_module(self, module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
        yield "class", type(module)
        if isinstance(module, (torch.jit.ScriptModule, torch.fx.GraphModule)):
            yield "written", str(module.code)
        yield from ((name, part) for name, part in module._modules.items())
        for name, values in [*module._parameters.items(), *module._buffers.items()]:
            yield name, values if self._state or values is None else values.shape
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            yield from ((f"hook {i}", hook) for i, hook in enumerate(hooks.values()))
        yield from ((name, part) for name, part in _attributes(module) if name not in OWN)


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    yield from (("defaults", function.__defaults__), ("keywords", function.__kwdefaults__))
    inside = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
    yield from zip(function.__code__.co_freevars, inside, strict=False)
    if _installed(function.__module__):
        return
    yield "code", function.__code__
    for name in sorted(set(_globals_of(function.__code__)) & function.__globals__.keys()):
        yield f"global {name}", function.__globals__[name]


def _parts_of_class(cls: type) -> Iterator[tuple[str, Any]]:
    for base in cls.__mro__:
        if _installed(base.__module__):
            continue
        for name, part in sorted(vars(base).items()):
            inner = getattr(part, "__func__", getattr(part, "fget", part))  # of class methods and properties
            if isinstance(inner, types.FunctionType) or (
                not name.startswith("__") and isinstance(inner, PLAIN)
            ):
                yield f"{base.__qualname__} {name}", inner


def _parts_of_object(thing: Any) -> Iterator[tuple[str, Any]]:
    yield "class", type(thing)
    yield from _attributes(thing)
    if type(thing).__module__.partition(".")[0] in sys.stdlib_module_names and " at 0x" not in repr(thing):
        yield "words", repr(thing)


def _attributes(thing: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that an object keeps; of those of installed packages the public ones."""
    module = type(thing).__module__
    if module.partition(".")[0] in sys.stdlib_module_names and not isinstance(thing, SPACES):
        return
    kept = {**{name: getattr(thing, name) for name in _slots(thing)}, **getattr(thing, "__dict__", {})}
    if _installed(module):
        kept = {name: part for name, part in kept.items() if not name.startswith("_")}
        if not isinstance(thing, torch.nn.Module) and not module.startswith("torch."):
            kept = {
                name: part for name, part in kept.items() if _plain(part)
            }  # of a trainer, a configuration
    yield from kept.items()


def _plain(part: Any) -> bool:
    """Whether it is a number, a word, or a collection of such."""
    if isinstance(part, Mapping):
        return all(map(_plain, part.values()))
    return all(map(_plain, part)) if isinstance(part, (list, tuple)) else isinstance(part, PLAIN)


def _slots(thing: Any) -> list[str]:
    slots = [getattr(cls, "__slots__", ()) for cls in type(thing).__mro__ if not _installed(cls.__module__)]
    names = [name for found in slots for name in ([found] if isinstance(found, str) else found)]
    return [name for name in names if not name.startswith("__") and hasattr(thing, name)]


def _named(thing: Any) -> str:
    """What an object is called, its class where it has no name of its own."""
    own = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{getattr(own, '__module__', '')} {getattr(own, '__qualname__', '')}"


def _amount(thing: Any) -> str:
    """The numbers of a tensor or array, the length of a collection."""
    if isinstance(thing, (Tensor, np.ndarray)):
        return _hash_of(thing)
    return str(len(thing)) if isinstance(thing, (list, tuple, Mapping, set, frozenset)) else ""


def _hash_of(values: Any) -> str:
    """The numbers of a tensor or array, in any layout."""
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "biufc":
            return f"{values.dtype} {values.shape} {values.tolist()!r}"
        values = torch.from_numpy(np.ascontiguousarray(values))
    words = f"{values.dtype} {tuple(values.shape)}"
    if values.requires_grad and not values.is_leaf:
        return words  # left over from a computation
    dense = values.detach().to_dense() if values.layout != torch.strided else values
    return words if values.is_meta else content_hash([dense], words)


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """The names of the globals that code reads, that of functions inside it too."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals_of(constant)


def _filled(cell: Any) -> bool:
    """Whether a cell of a closure has a value yet."""
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


@functools.cache
def _installed(module: str | None) -> bool:
    """Whether a module belongs to Python or to an installed package, whose code has a name and a version."""
    root = (module or "builtins").partition(".")[0]
    if root in sys.stdlib_module_names and root != "__main__":
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return root == "upweight" or "site-packages" in file or "dist-packages" in file
