"""Parameters by name <-> flat vectors, batch first: a stack of k vectors is (k, p)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Params, Tensor


@dataclass(frozen=True)
class Layout:
    """The order and shapes of parameters inside a flat vector.

    >>> import torch
    >>> layout = Layout(("weight", "bias"), ((2, 3), (2,)))
    >>> layout.size
    8
    >>> layout.unpack(torch.zeros(5, 8))["weight"].shape
    torch.Size([5, 2, 3])
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> list[int]:
        """The number of entries of each parameter."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """p, the length of a flat vector."""
        return sum(self.sizes)

    def unpack(self, flat: Float[Tensor, "*k p"]) -> Params:
        """Flat (..., p) -> parameters, each with the same leading shape; views, not copies."""
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape((*flat.shape[:-1], *shape))
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def pack(self, params: Params, lead: int = 0) -> Tensor:
        """Parameters with `lead` leading dimensions -> flat (..., p)."""
        return torch.cat(
            [params[name].reshape((*params[name].shape[:lead], -1)) for name in self.names], dim=-1
        )
