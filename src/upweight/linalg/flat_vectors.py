"""Parameters by name <-> flat vectors, batch first: a stack of k vectors is (k, p)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Params, Tensor


@dataclass(frozen=True)
class Layout:
    """The order and shapes of parameters inside a flat vector, so that all matrices are about vectors of one length p.

    Entries stand parameter by parameter in the order of `names`, each parameter row by row (C order).

    Args:
        names: the parameters, as `torch.nn.Module.named_parameters` names them.
        shapes: the shape of each.

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
        """The number of entries of each parameter, in the order of `names`; a scalar parameter, shape (), has one."""
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        """The length p of a flat vector: the number of entries of all parameters."""
        return sum(self.sizes)

    def of(self, name: str) -> int:
        """The number of entries of that parameter."""
        return self.sizes[self.names.index(name)]

    def unpack(self, flat: Float[Tensor, "*k p"]) -> Params:
        """Take flat vectors (..., p) apart into parameters by name, each with the leading shape in front of its own.

        What comes back are views where torch can make them, so that it costs nothing; `pack` is the inverse.
        """
        parts = flat.split(self.sizes, dim=-1)
        return {
            name: part.reshape((*flat.shape[:-1], *shape))
            for name, shape, part in zip(self.names, self.shapes, parts, strict=True)
        }

    def found(self, parts: Params) -> Params:
        """These parameters among the parts of a trained module, as copies.

        Raises ValueError where one is missing or has another shape.
        """
        for name, shape in zip(self.names, self.shapes, strict=True):
            if name not in parts or tuple(parts[name].shape) != shape:
                got = f"of shape {tuple(parts[name].shape)}" if name in parts else "missing"
                raise ValueError(
                    f"the returned module must have {name!r} of shape {shape}; there it is {got}"
                )
        return {name: parts[name].detach().clone() for name in self.names}

    def taken(self, parts: Params) -> Tensor:
        """What `found` gives, as one flat vector (p,)."""
        return self.pack(self.found(parts))

    def pack(self, params: Params, lead: int = 0) -> Tensor:
        """Put parameters by name together to flat vectors (..., p), the inverse of `unpack`.

        Every parameter has `lead` leading dimensions in front of its own shape, equal for all of them; names beside
        those of the layout are left out. Raises KeyError where one is missing.

        >>> layout = Layout(("weight", "bias"), ((2, 3), (2,)))
        >>> layout.pack({"weight": torch.ones(5, 2, 3), "bias": torch.zeros(5, 2)}, lead=1).shape
        torch.Size([5, 8])
        """
        return torch.cat(
            [params[name].reshape((*params[name].shape[:lead], -1)) for name in self.names], dim=-1
        )
