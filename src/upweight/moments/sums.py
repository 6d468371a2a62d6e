"""The moments of the rows of each class: how they follow from the rows, from all but some, and move with weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor

LOST = 1e-6
"""The share of a sum of squares below which what is left of it after a removal is summed anew: digits cancelled."""


class Moments(NamedTuple):
    """Total weights (k,), means (k, d) and sums of squares around them of k classes: (k, d, d), or (k, d) of columns.

    `smoothing` (1,) is what is added to every variance.
    """

    total: Tensor
    mean: Tensor
    scatter: Tensor
    smoothing: Tensor


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The training rows, by class.

    Args:
        X: their columns (n, d).
        codes: the class of each (n,), 0..k-1.
        w: the weight of each (n,).
        crossed: whether products of different columns are summed too, or squares alone.
        smoothing: what is added to variances, as a share of the largest variance of a column over all rows, whatever
            their weights.
        classes: how many classes there are, where some may have no rows; 0: those that have.
    """

    X: Float[Tensor, "n d"]
    codes: Int[Tensor, " n"]
    w: Float[Tensor, " n"]
    crossed: bool
    smoothing: float = 0.0
    classes: int = 0

    @property
    def k(self) -> int:
        """The number of classes."""
        return len(self.members)

    def of(self, index: Int[Tensor, " b"]) -> ClassRows:
        """Some of the rows, of as many classes."""
        return replace(self, X=self.X[index], codes=self.codes[index], w=self.w[index], classes=self.k)

    @cached_property
    def members(self) -> tuple[Int[Tensor, " _"], ...]:
        """The numbers of the rows of each class."""
        return tuple(
            (self.codes == c).nonzero()[:, 0] for c in range(self.classes or int(self.codes.max()) + 1)
        )

    @property
    def layout(self) -> Layout:
        """The names and shapes of the moments in a flat vector."""
        k, d = self.k, self.X.shape[1]
        scatter = (k, d, d) if self.crossed else (k, d)
        return Layout(("total", "mean", "scatter", "smoothing"), ((k,), (k, d), scatter, (1,)))

    @cached_property
    def all(self) -> Moments:
        """The moments of all rows."""
        found = [self._of(rows) for rows in self.members]
        return self._stacked(found, self._smoothing(None))

    def unpack(self, theta: Float[Tensor, " p"]) -> Moments:
        """The moments from a flat vector of them."""
        return Moments(**self.layout.unpack(theta))

    def packed(self, moments: Moments) -> Float[Tensor, " p"]:
        """The moments as a flat vector."""
        return torch.cat([part.flatten() for part in moments])

    def without(self, rows: Int[Tensor, " r"]) -> Moments:
        """The moments of all other rows: what the rows added is taken off, or summed anew where digits would cancel.

        NaN for a class that has no other rows.
        """
        total, mean, scatter = (part.clone() for part in self.all[:3])
        for c in self.codes[rows].unique().tolist():
            gone = rows[self.codes[rows] == c]
            found = self._less(c, gone)
            if found is None:
                left = self.members[c][~torch.isin(self.members[c], gone)]
                found = self._of(left)
            total[c], mean[c], scatter[c] = found
        return Moments(total, mean, scatter, self._smoothing(rows))

    def summed_without(self, rows: Int[Tensor, " r"]) -> Moments:
        """The moments of all other rows, summed from these alone: what `without` is judged by."""
        kept = torch.ones(len(self.X), dtype=torch.bool)
        kept[rows] = False
        found = [self._of(own[kept[own]]) for own in self.members]
        return self._stacked(found, self._share(self.X[kept]))

    def moves(self, X: Float[Tensor, "b d"], codes: Int[Tensor, " b"], at: Moments) -> Float[Tensor, "b p"]:
        """The derivative of moments in the weight of each of some rows, those of training or others.

        Args:
            X: their columns.
            codes: their classes.
            at: the moments.
        """
        b, own = torch.arange(len(X)), X - at.mean[codes]
        total, mean, scatter = (part.new_zeros(len(X), *part.shape) for part in at[:3])
        total[b, codes] = 1.0
        mean[b, codes] = own / at.total[codes, None]
        scatter[b, codes] = own[:, :, None] * own[:, None] if self.crossed else own.square()
        return torch.cat([part.flatten(1) for part in (total, mean, scatter, X.new_zeros(len(X), 1))], dim=1)

    def products(self, rows: Float[Tensor, "q p"], part: slice, at: Moments) -> Float[Tensor, "q b"]:
        """The products of q vectors with the moves of a part of the training rows, which are not written out.

        Args:
            rows: the vectors.
            part: the training rows.
            at: the moments.
        """
        parts, found = self.layout.unpack(rows), rows.new_empty(len(rows), part.stop - part.start)
        for c, members in enumerate(self.members):
            own = members[(members >= part.start) & (members < part.stop)]
            U = self.X[own] - at.mean[c]
            S = parts["scatter"][:, c]
            square = ((U @ S) * U).sum(2) if self.crossed else S @ U.square().T
            found[:, own - part.start] = (
                parts["total"][:, c, None] + parts["mean"][:, c] @ U.T / at.total[c] + square
            )
        return found

    def by_columns(
        self, row: Float[Tensor, " p"], index: Int[Tensor, " b"], at: Moments
    ) -> Float[Tensor, "b d_1"]:
        """The product of a vector with the moves of some training rows, taken apart by columns, then the class's share.

        Of two columns that meet in a product each has one half.

        Args:
            row: the vector.
            index: the training rows.
            at: the moments.
        """
        parts, codes = self.layout.unpack(row), self.codes[index]
        U, S = self.X[index] - at.mean[codes], parts["scatter"][codes]
        square = U * ((S + S.mT) / 2 @ U[:, :, None])[:, :, 0] if self.crossed else S * U.square()
        columns = parts["mean"][codes] * U / at.total[codes, None] + square
        return torch.cat([columns, parts["total"][codes, None]], dim=1)

    def input_moves(
        self, X: Float[Tensor, "b d"], codes: Int[Tensor, " b"], rows: Float[Tensor, "q p"], at: Moments
    ) -> Float[Tensor, "q b d"]:
        """The derivative of the product of q vectors with the move of each of some rows, in the columns of that row.

        What is added to variances is not in it (`spread`).

        Args:
            X: their columns.
            codes: their classes.
            rows: the vectors.
            at: the moments.
        """
        parts, U = self.layout.unpack(rows), X - at.mean[codes]
        S = parts["scatter"][:, codes]
        square = ((S + S.mT) @ U[..., None])[..., 0] if self.crossed else 2 * S * U
        return parts["mean"][:, codes] / at.total[codes, None] + square

    def spread(self, X: Float[Tensor, "b d"], rows: Float[Tensor, "q p"]) -> Float[Tensor, "q b d"]:
        """What q vectors make of how the smoothing moves with the columns of some rows, whatever they weigh."""
        mean, squares = self._together
        widest = int(squares.argmax())
        slope = 2 * self.smoothing * (X[:, widest] - mean[widest]) / len(self.X)
        found = rows.new_zeros(len(rows), *X.shape)
        found[:, :, widest] = self.layout.unpack(rows)["smoothing"] * slope
        return found

    def _stacked(self, found: list[tuple[Tensor, Tensor, Tensor]], smoothing: Tensor) -> Moments:
        """The moments of all classes, from those of each."""
        total, mean, scatter = (torch.stack(part) for part in zip(*found, strict=True))
        return Moments(total, mean, scatter, smoothing)

    def _of(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Total weight, mean and squares of some rows of one class, NaN of none."""
        X, w = self.X[rows], self.w[rows]
        total = w.sum()
        if not len(rows) or not bool(total > 0):
            d = X.shape[1]
            nothing = X.new_full((d, d) if self.crossed else (d,), torch.nan)
            return X.new_tensor(torch.nan), X.new_full((d,), torch.nan), nothing
        first = X[0]  # columns that do not vary have a mean without rounding
        mean = first + w @ (X - first) / total
        U = X - mean
        return total, mean, (w[:, None] * U).T @ U if self.crossed else w @ U.square()

    def _less(self, c: int, gone: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """A class without some of its rows, by what they added; None where too few digits would be left."""
        if len(gone) == len(self.members[c]):
            return None
        total, mean, scatter = self.all.total[c], self.all.mean[c], self.all.scatter[c]
        w = self.w[gone]
        U = self.X[gone] - mean
        left, pull = total - w.sum(), w @ U
        if self.crossed:
            found = scatter - (w[:, None] * U).T @ U - pull[:, None] * pull / left
            before, after = scatter.diagonal(), found.diagonal()
        else:
            before, after = scatter, scatter - w @ U.square() - pull.square() / left
            found = after
        if bool(left < LOST * total) or bool((after < LOST * before).any()):
            return None
        return left, mean - pull / left, found

    # -- what is added to variances --------------------------------------------------------------------------------

    @cached_property
    def _together(self) -> tuple[Tensor, Tensor]:
        """The mean of all rows, whatever their weights, and their squares around it."""
        mean = self.X.mean(0)
        return mean, (self.X - mean).square().sum(0)

    def _share(self, X: Tensor) -> Float[Tensor, " 1"]:
        return self.smoothing * X.var(0, correction=0).max().view(1)

    def _smoothing(self, gone: Tensor | None) -> Float[Tensor, " 1"]:
        if self.smoothing == 0:
            return self.X.new_zeros(1)
        if gone is None:
            return self._share(self.X)
        (mean, squares), n = self._together, len(self.X) - len(gone)
        U = self.X[gone] - mean
        after = squares - U.square().sum(0) - U.sum(0).square() / max(n, 1)
        if bool(after.max() < LOST * squares.max()):
            kept = torch.ones(len(self.X), dtype=torch.bool)
            kept[gone] = False
            return self._share(self.X[kept])
        return self.smoothing * (after.max() / n).view(1)
