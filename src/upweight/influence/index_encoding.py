"""How an index keeps a gradient: its strongest directions in the curvature's bases, of few positions, in few bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from ..curvature.eigenbases import Answers, Choice, Eigenbases
from ..curvature.separable import Separable
from ..linalg.outer_products import Pairs
from ..types import Tensor

ROUNDS = 3
"""Of the iteration that finds the leading outer products of a gradient."""
HALF = torch.float16


class Spread(NamedTuple):
    """What the directions of a score carry on average: the weights by which gradients are shortened.

    Args:
        layers: of each weight matrix the mean square (r, s) of what questions multiply a gradient with there.
        rest: likewise of all other directions (q,).
    """

    layers: list[Tensor]
    rest: Tensor


@dataclass(frozen=True, eq=False)
class Encoding:
    """What is kept of every gradient.

    Args:
        choices: the directions of each weight matrix that are kept.
        rest: those of all other parameters.
        ranks: the outer products of each weight matrix that are kept, largest first; 0 keeps all positions.
        dtype: of the numbers on disk; of float16 every vector has a scale of its own.
        spread: by which the largest are told, in the directions kept.
        inverses: the inverse eigenvalues in the directions kept, as answers are multiplied with them.
        references: those in all directions, to an error far below, for the examples that are kept whole.
        whole: whether all is kept, so that there is no error.
    """

    choices: list[Choice]
    rest: Int[Tensor, " l"]
    ranks: tuple[int, ...]
    dtype: torch.dtype
    spread: Spread
    inverses: tuple[Separable | None, ...]
    references: tuple[Separable | None, ...]
    whole: bool = False

    @property
    def bytes(self) -> int:
        """The bytes of one gradient whose positions are no more than the ranks."""
        size = self.dtype.itemsize * len(self.rest) + (4 if len(self.rest) else 0) * (self.dtype == HALF)
        for (rows, columns), rank in zip(self.choices, self.ranks, strict=True):
            size += max(rank, 1) * (
                self.dtype.itemsize * (len(rows) + len(columns)) + 4 * (self.dtype == HALF)
            )
        return size

    def kept(self, bases: Eigenbases) -> Eigenbases:
        """The curvature in the directions that are kept."""
        return bases.kept(self.choices, self.rest)

    def encoded(self, turned: Pairs) -> dict[str, Tensor]:
        """What is kept of b gradients, by name.

        Args:
            turned: in all directions of the curvature.
        """
        found: dict[str, Tensor] = {}
        for i, ((left, right), (rows, columns), rank) in enumerate(
            zip(turned.layers, self.choices, self.ranks, strict=True)
        ):
            left, right = left[:, :, rows], right[:, :, columns]
            if rank and left.shape[1] > rank:
                left, right = leading(left, right, rank, self.spread.layers[i])
            found |= {f"{i}.left": left, f"{i}.right": right}
            if self.dtype == HALF:
                (left, first), (right, second) = _scaled(left), _scaled(right)
                found |= {f"{i}.left": left, f"{i}.right": right, f"{i}.size": (first * second).float()}
        found["rest"] = turned.rest[:, self.rest]
        if self.dtype == HALF and len(self.rest):
            found["rest"], size = _scaled(found["rest"])
            found["rest.size"] = size.float()
        return {name: x if name.endswith("size") else x.to(self.dtype) for name, x in found.items()}

    def answers(self, bases: Eigenbases, turned: Pairs) -> Answers:
        """A^-1 v of turned questions v, in the directions that are kept.

        Args:
            bases: the curvature in these directions.
            turned: v, in all directions.
        """
        return bases.answers(self.selected(turned), self.inverses)

    def selected(self, turned: Pairs) -> Pairs:
        """Gradients in the directions that are kept, whole in all else: what questions are."""
        layers = [
            (left[:, :, rows], right[:, :, columns])
            for (left, right), (rows, columns) in zip(turned.layers, self.choices, strict=True)
        ]
        return Pairs(layers, turned.rest[:, self.rest])

    def decoded(self, tensors: dict[str, Tensor], dtype: torch.dtype) -> Pairs:
        """What `encoded` kept, as gradients in the directions kept.

        Args:
            tensors: as they are on disk.
            dtype: the precision of the gradients.
        """
        layers = []
        for i in range(len(self.choices)):
            left, right = tensors[f"{i}.left"], tensors[f"{i}.right"]
            left, right = left.to(dtype), right.to(dtype)
            if self.dtype == HALF:  # multiplied on the shorter side; both are copies
                (left if left.shape[-1] < right.shape[-1] else right).mul_(
                    tensors[f"{i}.size"].to(dtype)[..., None]
                )
            layers.append((left, right))
        rest = tensors["rest"]
        if "rest.size" in tensors:
            rest = rest * tensors["rest.size"].to(dtype)[:, None]
        return Pairs(layers, rest.to(dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Everything but words, by name, as files have it."""
        found = {"kept.rest": self.rest, "spread.rest": self.spread.rest}
        for i, (choice, spread) in enumerate(zip(self.choices, self.spread.layers, strict=True)):
            found |= {f"{i}.rows": choice.rows, f"{i}.columns": choice.columns, f"{i}.spread": spread}
            for kind, own in (("inverse", self.inverses[i]), ("reference", self.references[i])):
                parts = {} if own is None else own.tensors()
                found |= {f"{i}.{kind}.{name}": part for name, part in parts.items()}
        return found

    @property
    def words(self) -> dict[str, Any]:
        """What is left of it."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {"ranks": list(self.ranks), "dtype": dtype, "everything": self.whole}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], words: dict[str, Any]) -> Encoding:
        """What `tensors` and `words` gave. Raises KeyError, TypeError or AttributeError for others."""
        count = len(words["ranks"])
        choices = [Choice(tensors[f"{i}.rows"], tensors[f"{i}.columns"]) for i in range(count)]
        spread = Spread([tensors[f"{i}.spread"] for i in range(count)], tensors["spread.rest"])
        dtype = getattr(torch, words["dtype"])

        def separable(kind: str) -> tuple[Separable | None, ...]:
            names = [[f"{i}.{kind}.{name}" for name in ("u", "w", "sizes")] for i in range(count)]
            return tuple(
                Separable.restored(*(tensors[name] for name in own)) if own[0] in tensors else None
                for own in names
            )

        ranks = tuple(words["ranks"])
        inverses = separable("inverse"), separable("reference")
        return cls(choices, tensors["kept.rest"], ranks, dtype, spread, *inverses, words["everything"])


def leading(
    left: Float[Tensor, "b t r"], right: Float[Tensor, "b t s"], rank: int, spread: Float[Tensor, "r s"]
) -> tuple[Float[Tensor, "b c r"], Float[Tensor, "b c s"]]:
    """The leading outer products of gradients sum_t left_t right_t^T, as their products with questions weigh them.

    Args:
        left: the gradients' left factors.
        right: their right ones.
        rank: c, how many are kept.
        spread: the mean square of what questions have in each entry.
    """
    rows, columns = _roots(spread.mean(1)).to(left), _roots(spread.mean(0)).to(left)
    L, R = left * rows, right * columns
    signs = torch.randint(0, 2, (R.shape[1], rank), generator=torch.Generator().manual_seed(0)) * 2 - 1
    Z = _orthonormal(R.mT @ signs.to(R))
    for _ in range(ROUNDS):
        Y = _orthonormal(L.mT @ (R @ Z))
        Z = _orthonormal(R.mT @ (L @ Y))
    return (L.mT @ (R @ Z)).mT / rows, Z.mT / columns


def _scaled(x: Float[Tensor, "*b s"]) -> tuple[Float[Tensor, "*b s"], Float[Tensor, " *b"]]:
    """Vectors whose largest entry is 1, and what each is to be multiplied with."""
    size = x.abs().amax(-1)
    return x / size.clamp(min=torch.finfo(size.dtype).tiny)[..., None], size


def _roots(values: Tensor) -> Tensor:
    values = values.sqrt()
    return values.clamp(min=1e-6 * float(values.max()) or 1.0)


def _orthonormal(X: Float[Tensor, "b s c"]) -> Float[Tensor, "b s c"]:
    """Columns that span the same, by Gram-Schmidt for all matrices at once; zero where there are fewer."""
    found: list[Tensor] = []
    for x in X.unbind(2):
        size = x.norm(dim=1, keepdim=True)
        for _ in range(2):  # twice is enough
            for q in found:
                x = x - (x * q).sum(1, keepdim=True) * q
        own = x.norm(dim=1, keepdim=True)
        found.append(torch.where(own > 1e-5 * size, x / own.clamp(min=torch.finfo(x.dtype).tiny), 0.0))
    return torch.stack(found, dim=2)


def stacked(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """What several blocks of gradients keep, as that of one block; fewer positions are filled up with zeros."""

    def together(tensors: list[Tensor]) -> Tensor:
        if tensors[0].ndim == 1 or len({tensor.shape[1:] for tensor in tensors}) == 1:
            return torch.cat(tensors)
        most = max(tensor.shape[1] for tensor in tensors)
        wide = (0, 0) * (tensors[0].ndim - 2)
        return torch.cat([F.pad(x, (*wide, 0, most - x.shape[1])) for x in tensors])

    return {name: together([part[name] for part in parts]) for name in parts[0]}


def split(tensors: dict[str, Tensor], rows: int) -> Iterator[dict[str, Tensor]]:
    """What is kept of a block, some rows at a time; the examples that are kept whole are left out."""
    kept = {name: x.split(rows) for name, x in tensors.items() if not name.startswith("sample.")}
    for parts in zip(*kept.values(), strict=True):
        yield dict(zip(kept, parts, strict=True))
