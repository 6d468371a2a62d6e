"""Which kind of layer a module is: one line per class of modules.

A key is a class (its subclasses come along), or how the full name of a class ends whose library need not be there.
"""

from __future__ import annotations

from typing import Any, TypeVar

from torch import nn

from .convolution import Convolution
from .dense import Dense, TransposedDense
from .embedding import Embedding
from .layer import Layer
from .norm import ChannelNorm, Norm, RowNorm

LAYERS: dict[type[nn.Module] | str, type[Layer]] = {
    nn.Linear: Dense,
    "transformers.pytorch_utils.Conv1D": TransposedDense,
    nn.Conv1d: Convolution,
    nn.Conv2d: Convolution,
    nn.Embedding: Embedding,
}
"""Weight matrices, whose gradients are sums of outer products."""

NORMS: dict[type[nn.Module] | str, type[Norm]] = {
    nn.LayerNorm: RowNorm,
    nn.GroupNorm: ChannelNorm,
    nn.modules.batchnorm._BatchNorm: ChannelNorm,
    "RMSNorm": RowNorm,
}
"""Scales, whose gradients are sums of products entry by entry."""

Kind = TypeVar("Kind")


def layer_of(module: nn.Module) -> type[Layer] | None:
    """The kind of layer that a module is, or None.

    >>> layer_of(nn.Linear(2, 3)).__name__, layer_of(nn.Tanh())
    ('Dense', None)
    """
    return _looked_up(LAYERS, type(module))


def norm_of(module: nn.Module) -> type[Norm] | None:
    """The kind of norm that a module is, or None.

    >>> norm_of(nn.RMSNorm(2)).__name__
    'RowNorm'
    """
    return _looked_up(NORMS, type(module))


def _looked_up(table: dict[Any, Kind], module: type[nn.Module]) -> Kind | None:
    """What stands in the table under the class or the nearest class above it."""
    for cls in module.__mro__:
        name = f"{cls.__module__}.{cls.__qualname__}"
        for key, kind in table.items():
            if key is cls or (isinstance(key, str) and name.endswith(key)):
                return kind
    return None
