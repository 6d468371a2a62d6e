"""Class weights "balanced", N / (K N_k): they follow how many examples each class has, also after a removal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int

from ..types import Tensor


@dataclass(frozen=True, eq=False)
class ClassCounts:
    """What each training example counts for in the weight of its class.

    Args:
        codes: the class of each example (n,), by number.
        counted: what each counts for (n,): 1, or its sample weight.
        classes: how many classes there may be.

    >>> counts = ClassCounts(torch.tensor([0, 0, 1, 1]), torch.ones(4).double(), 2)
    >>> counts.factors([torch.tensor([0])])  # 4 / (2 * 2) became 3 / (2 * 1) and 3 / (2 * 2)
    tensor([[1.5000, 0.7500]], dtype=torch.float64)
    """

    codes: Int[Tensor, " n"]
    counted: Float[Tensor, " n"]
    classes: int

    @property
    def totals(self) -> Float[Tensor, " k"]:
        """N_k, what each class counts for."""
        return torch.zeros(self.classes, dtype=torch.float64).index_add_(0, self.codes, self.counted)

    def take(self, index: Int[Tensor, " b"]) -> ClassCounts:
        """The counts of some of the examples, in the order of the index."""
        return replace(self, codes=self.codes[index], counted=self.counted[index])

    def factors(self, sets: Sequence[Int[Tensor, " _"]]) -> Float[Tensor, "g k"]:
        """What the weight of each class is multiplied with once each of g sets of examples is removed.

        1 for a class of which nothing is left.
        """
        gone = torch.zeros(len(sets), self.classes, dtype=torch.float64)
        for own, rows in zip(gone, sets, strict=True):
            own.index_add_(0, self.codes[rows], self.counted[rows])
        return self._factors(self.totals - gone)

    def relabelled(
        self, rows: Int[Tensor, " r"], codes: Int[Tensor, " r"]
    ) -> tuple[ClassCounts, Float[Tensor, " k"]]:
        """The counts once these rows are of those classes, and what each class weight is multiplied with."""
        there = replace(self, codes=self.codes.index_put((rows,), codes))
        return there, self._factors(there.totals[None])[0]

    def _factors(self, totals: Float[Tensor, "g k"]) -> Float[Tensor, "g k"]:
        old, there = self.totals, totals > 1e-9 * self.totals.sum()
        share = (totals.sum(1) / there.sum(1)) * ((old > 0).sum() / old.sum())
        return torch.where(there, share[:, None] * old / torch.where(there, totals, 1.0), 1.0)
