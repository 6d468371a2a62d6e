"""Outputs of a model in which not everything is a tensor: None, words, dataclasses, beside what a loss reads.

Derivatives are about the tensors alone. `held` takes the others out of sight of torch.func, `opened` gives the loss
what the model gave.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from torch.utils._pytree import TreeSpec, register_pytree_node, tree_flatten

from ..types import Tensor


class Beside:
    """What is no tensor; two of them are as good as one another, so that outputs of two examples have one form."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self)

    def __hash__(self) -> int:
        return 0


@dataclasses.dataclass
class Held:
    """Tensors of a model's outputs, and how the outputs are put together again.

    Args:
        tensors: the tensors, in order.
        form: how containers are nested.
        places: for each leaf None where it is a tensor, else what stands there.
        rebuild: makes an object of what was inside, where one was taken apart.
    """

    tensors: list[Any]
    form: TreeSpec
    places: tuple[Any, ...]
    rebuild: type | None = None


register_pytree_node(
    Held,
    lambda held: (held.tensors, (held.form, held.places, held.rebuild)),
    lambda tensors, context: Held(list(tensors), *context),
)


def held(outputs: Any) -> Any:
    """Outputs whose leaves are tensors alone, as they are; others as a `Held`."""
    only = all(isinstance(leaf, Tensor) for leaf in tree_flatten(outputs)[0])
    return outputs if only else _held(outputs)


def _held(outputs: Any, rebuild: type | None = None) -> Held:
    leaves, form = tree_flatten(outputs)
    tensors: list[Any] = []
    places: list[Any] = []
    for leaf in leaves:
        inside = _inside(leaf)
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
        elif inside is not None:
            tensors.append(_held(inside, type(leaf)))
        places.append(None if isinstance(leaf, Tensor) or inside is not None else Beside(leaf))
    return Held(tensors, form, tuple(places), rebuild)


def _inside(leaf: Any) -> dict[str, Any] | None:
    """The fields of a dataclass or a namespace."""
    if isinstance(leaf, SimpleNamespace):
        return dict(vars(leaf))
    if dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
        return {field.name: getattr(leaf, field.name) for field in dataclasses.fields(leaf)}
    return None


@functools.singledispatch
def opened(outputs: Any) -> Any:
    """What the model gave, as the loss takes it."""
    return outputs


@opened.register
def _(outputs: Held) -> Any:
    tensors = iter(outputs.tensors)
    leaves = [opened(next(tensors)) if place is None else place.value for place in outputs.places]
    found = outputs.form.unflatten(leaves)
    return found if outputs.rebuild is None else outputs.rebuild(**found)


def asked(function: Callable[[Any, Any], Tensor]) -> Callable[[Any, Any], Tensor]:
    """A loss or measure of outputs that may be held."""
    return lambda outputs, targets: function(opened(outputs), targets)
