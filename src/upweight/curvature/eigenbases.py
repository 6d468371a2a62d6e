"""Curvature in the bases where it is diagonal: gradients turned into them are short, and answers are products there.

Of a weight matrix the bases are those of EKFAC's two sides, of all else (the parameters outside weight matrices, or a
whole small model) eigenvectors of one matrix. Some of the directions carry nearly all of a score: `kept` leaves the
others out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

import torch
from jaxtyping import Float, Int

from ..linalg.kronecker import BlocksFactor
from ..linalg.outer_products import Pairs, Vectors, WeightLayout
from ..types import Tensor
from .kronecker_statistics import DENSE_REST
from .separable import Separable

NAMES = ("left", "right", "values")


class Choice(NamedTuple):
    """The directions that are kept of one weight matrix: of its outputs and of its inputs."""

    rows: Int[Tensor, " r"]
    columns: Int[Tensor, " s"]


@dataclass(frozen=True, eq=False)
class Directions:
    """The directions of one weight matrix.

    Args:
        left: those of its outputs, as columns.
        right: those of its inputs, the intercept's constant among them.
        values: the eigenvalue of every pair of them, damping included.
    """

    left: Float[Tensor, "c r"]
    right: Float[Tensor, "e s"]
    values: Float[Tensor, "r s"]

    def kept(self, choice: Choice) -> Directions:
        """Some of them alone."""
        rows, columns = choice
        return Directions(self.left[:, rows], self.right[:, columns], self.values[rows][:, columns])

    def to(self, like: Tensor) -> Directions:
        """A copy in the precision of another tensor."""
        return Directions(self.left.to(like), self.right.to(like), self.values.to(like))

    def answers(
        self, left: Float[Tensor, "k t r"], right: Float[Tensor, "k t s"], inverse: Separable | None
    ) -> Terms | Tensor:
        """A^-1 v in these directions: as outer products of first entries, or whole (k, r, s).

        Args:
            left: of k gradients v, turned.
            right: likewise.
            inverse: 1 / values as a sum of outer products, for gradients of one position; None: as it is.
        """
        if inverse is None or left.shape[1] != 1:
            return (left.mT @ right) / self.values.to(left)
        return inverse.times(left[:, 0], right[:, 0])


Terms: TypeAlias = list[tuple[Tensor, Tensor]]
"""Outer products of the first directions of both sides, (k, <= r) and (k, <= s) each, or several of them one after the
other, (R k, r) and (R k, s)."""


@dataclass(frozen=True, eq=False)
class Answers:
    """A^-1 v of k gradients v, as outer products of some weight matrices and whole matrices of the others."""

    layers: list[Terms | Tensor]
    rest: Float[Tensor, "k q"]

    def products(self, pairs: Pairs) -> Float[Tensor, "k b"]:
        """The product of every answer with each of b gradients in the same directions."""
        whole = [
            (own, pair)
            for own, pair in zip(self.layers, pairs.layers, strict=True)
            if isinstance(own, Tensor)
        ]
        total = Vectors([own for own, _ in whole], self.rest).products(
            Pairs([pair for _, pair in whole], pairs.rest)
        )
        for own, (left, right) in zip(self.layers, pairs.layers, strict=True):
            if not isinstance(own, Tensor):
                _add_terms(total, own, left[:, 0], right[:, 0])
        return total


def _add_terms(
    total: Float[Tensor, "k b"], terms: Terms, left: Float[Tensor, "b r"], right: Float[Tensor, "b s"]
) -> None:
    """Add the products of outer products with gradients of one position.

    Args:
        total: what is added to.
        terms: of k questions.
        left: of the gradients.
        right: likewise.
    """
    for u, w in terms:
        if len(u) == len(total):
            total += (u @ left[:, : u.shape[1]].T) * (w @ right[:, : w.shape[1]].T)
        else:
            both = (left[:, : u.shape[1]] @ u.T) * (right[:, : w.shape[1]] @ w.T)
            total += both.view(len(left), -1, len(total)).sum(1).T


@dataclass(frozen=True, eq=False)
class Eigenbases:
    """A positive definite curvature, diagonal in bases of its own.

    Args:
        layers: the directions of each weight matrix; none where gradients are taken whole.
        basis: the directions of all other parameters as columns; None: the parameters themselves.
        values: the eigenvalues of these, damping included.
        layout: where gradients are taken whole, how they are put together from the factors that they come in.
    """

    layers: tuple[Directions, ...]
    basis: Float[Tensor, "q l"] | None
    values: Float[Tensor, " l"]
    layout: WeightLayout | None = None

    def turned(self, pairs: Pairs) -> Pairs:
        """Gradients in these directions, in the precision that they come in."""
        if self.layout is not None:
            pairs = Pairs([], self.layout.join(pairs))
        turned = [
            (left @ own.left.to(left), right @ own.right.to(right))
            for (left, right), own in zip(pairs.layers, self.layers, strict=True)
        ]
        return Pairs(turned, pairs.rest if self.basis is None else pairs.rest @ self.basis.to(pairs.rest))

    def answers(self, turned: Pairs, inverses: Sequence[Separable | None]) -> Answers:
        """A^-1 v of turned gradients v.

        Args:
            turned: v.
            inverses: of each weight matrix, see `Directions.answers`.
        """
        layers = [
            own.answers(*pair, inverse)
            for own, pair, inverse in zip(self.layers, turned.layers, inverses, strict=True)
        ]
        return Answers(layers, turned.rest / self.values.to(turned.rest))

    def quadratic(self, turned: Pairs) -> Float[Tensor, " b"]:
        """v^T A^-1 v of turned gradients v."""
        total = turned.rest.square() @ (1 / self.values).to(turned.rest)
        for own, (left, right) in zip(self.layers, turned.layers, strict=True):
            inverse = (1 / own.values).to(left)
            if left.shape[1] == 1:
                total = total + ((left[:, 0].square() @ inverse) * right[:, 0].square()).sum(1)
            else:
                total = total + ((left.mT @ right).square() * inverse).sum((1, 2))
        return total

    def kept(self, choices: list[Choice], rest: Int[Tensor, " l"]) -> Eigenbases:
        """The curvature in some of its directions alone.

        Args:
            choices: of each weight matrix.
            rest: of all other parameters.
        """
        layers = tuple(own.kept(choice) for own, choice in zip(self.layers, choices, strict=True))
        basis = None if self.basis is None else self.basis[:, rest]
        return replace(self, layers=layers, basis=basis, values=self.values[rest])

    def to(self, like: Tensor) -> Eigenbases:
        """A copy in the precision of another tensor."""
        basis = None if self.basis is None else self.basis.to(like)
        return replace(
            self, layers=tuple(own.to(like) for own in self.layers), basis=basis, values=self.values.to(like)
        )

    def tensors(self) -> dict[str, Tensor]:
        """Everything by name, as files have it."""
        found = {f"{i}.{name}": getattr(own, name) for i, own in enumerate(self.layers) for name in NAMES}
        found["rest.values"] = self.values
        return found if self.basis is None else {**found, "rest.basis": self.basis}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], layout: WeightLayout | None) -> Eigenbases:
        """What `tensors` gave. Raises KeyError for other names."""
        count = sum(name.endswith(".left") for name in tensors)
        layers = tuple(Directions(*(tensors[f"{i}.{name}"] for name in NAMES)) for i in range(count))
        return cls(layers, tensors.get("rest.basis"), tensors["rest.values"], layout)


def of_factor(factor: BlocksFactor) -> Eigenbases:
    """The bases of EKFAC's factor. Raises ValueError for one that keeps leading directions whole."""
    if any(part.leading for _, part in factor.layers):
        raise ValueError(
            "an EKFAC with leading directions is for preconditioners and has no bases: leave `leading` out"
        )
    layers = tuple(Directions(part.left, part.right, part.values) for _, part in factor.layers)
    if factor.rest is None:
        return Eigenbases(layers, None, torch.zeros(0, dtype=factor.dtype))
    index, part = factor.rest
    product = part.product
    assert product is not None
    if len(index) > DENSE_REST:
        return Eigenbases(layers, None, product(torch.ones(1, len(index), dtype=factor.dtype))[0])
    return of_matrix(product(torch.eye(len(index), dtype=factor.dtype)), layers)


def of_matrix(
    matrix: Float[Tensor, "q q"], layers: tuple[Directions, ...] = (), layout: WeightLayout | None = None
) -> Eigenbases:
    """The bases of a positive definite matrix, in units in which its diagonal is 1; those beside it stay as they are.

    Directions along which it is flat but for rounding get no answer.

    Args:
        matrix: of the parameters outside weight matrices, or of all.
        layers: the directions of the weight matrices.
        layout: where gradients are taken whole, how they are put together.
    """
    matrix = matrix.double()
    scale = matrix.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(matrix * scale * scale[:, None])
    flat = values < len(values) * torch.finfo(values.dtype).eps * values[-1]
    return Eigenbases(layers, scale[:, None] * vectors, values.where(~flat, torch.inf), layout)
