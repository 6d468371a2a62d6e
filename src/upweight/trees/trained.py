"""What leaf values are computed from: the rows of training, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int

from ..runtime.progress import track
from ..types import Tensor
from .losses import BoostedLoss, Slopes
from .start import Start
from .structure import Structure, Tree

T = TypeVar("T")
NUMBERS = 1 << 15
"""Numbers of a block of rows that are worked on at once: they stay in cache, and torch takes one thread for them."""


def tracked(items: Iterable[T], title: str | None, total: int) -> Iterable[T]:
    """The items, with a progress bar where it has a title.

    Args:
        items: what is iterated over.
        title: what is done with them, or None.
        total: how many there are.
    """
    return items if title is None else track(items, title, total)


@dataclass(frozen=True, eq=False)
class Trained:
    """What leaf values are computed from: the structure held fixed, the loss, the start, and the rows.

    Args:
        structure: rounds, trees and the leaves of the rows.
        loss: what is boosted.
        start: where the scores begin.
        targets: of the rows, encoded as the loss has them.
        numbers: what the start is computed from (n, c).
        w: the weights of the rows, with what their labels put into them (n,).
        by_label: the latter alone (n,), where the start does not see it; else None.
        single: whether the library adds the scores up in float32.
        mean: the weighted mean of the numbers (c,), or their quantile; None: of these rows.
        total: the sum of the weights that the mean is taken with; None: of these rows.
        by_mean: whether the damping of leaves is so much per mean weight of the rows that are there.
        damped: what the damping of all leaves is multiplied by.
    """

    structure: Structure
    loss: BoostedLoss
    start: Start
    targets: Tensor
    numbers: Float[Tensor, "n c"]
    w: Float[Tensor, " n"]
    by_label: Tensor | None = None
    single: bool = False
    mean: Tensor | None = None
    total: Tensor | None = None
    by_mean: bool = False
    damped: float = 1.0

    def __post_init__(self) -> None:
        if self.mean is None:
            w = self.start_weights
            vars(self)["total"] = w.sum()
            vars(self)["mean"] = self.loss.middle(self.numbers, w)

    @property
    def n(self) -> int:
        """The number of rows."""
        return len(self.w)

    @property
    def start_weights(self) -> Float[Tensor, " n"]:
        """The weights of the rows that the start sees."""
        return self.w if self.by_label is None else self.w / self.by_label

    def start_scores(self) -> Float[Tensor, " c"]:
        """Where the scores begin."""
        assert self.mean is not None
        return self.start.value(self.mean)

    def start_slopes(self) -> Float[Tensor, "n c"]:
        """How the start scores move as each row is up-weighted: its weight times the derivative in it."""
        assert self.mean is not None
        assert self.total is not None
        share = self.start_weights / self.total
        return self.start.slopes(self.mean, share[:, None] * (self.numbers - self.mean))

    def rounded(self, scores: Tensor) -> Tensor:
        """Scores, or what is added to them, as the library keeps them."""
        return scores.float().double() if self.single else scores

    def with_weights(self, w: Float[Tensor, " n"]) -> Trained:
        """The training with other weights of its rows: 0 leaves a row out, of every bag as well."""
        damped = self.damped
        if self.by_mean:
            damped *= float(self.w[w > 0].mean() / self.w[self.w > 0].mean())
        return replace(self, w=w, mean=None, total=None, damped=damped)

    def rows(self, index: Int[Tensor, " b"]) -> Trained:
        """Some of the rows, in the training of all of them."""
        by_label = None if self.by_label is None else self.by_label[index]
        structure = self.structure.take(index)
        return replace(
            self,
            structure=structure,
            targets=self.targets[index],
            numbers=self.numbers[index],
            w=self.w[index],
            by_label=by_label,
        )

    def others(
        self, leaf: Int[Tensor, "t m"], rows: tuple[Tensor, Tensor], w: Tensor, by_label: Tensor | None
    ) -> Trained:
        """Other rows, as if they were among these: in every bag, since nobody knows.

        Args:
            leaf: their leaves.
            rows: their targets (m,) and numbers (m, c).
            w: their weights (m,).
            by_label: what their labels put into these (m,), where the start does not see it.
        """
        structure = replace(self.structure, leaf=leaf, bags=None)
        return replace(self, structure=structure, targets=rows[0], numbers=rows[1], w=w, by_label=by_label)

    # -- blocks of rows ----------------------------------------------------------------------------------------------

    def blocks(self, wide: int, work: Callable[[slice], T], title: str | None = None) -> list[T]:
        """What `work` gives for each block of rows, on as many threads as torch would take.

        Args:
            wide: how many numbers a row has.
            work: of a slice of rows; the threads share nothing but the rows.
            title: of a progress bar; None: there is none.
        """
        size = max(256, NUMBERS // max(1, wide))
        parts = [slice(at, min(at + size, self.n)) for at in range(0, self.n, size)]
        threads = min(torch.get_num_threads(), len(parts))
        if threads == 1:
            return list(tracked(map(work, parts), title, len(parts)))
        with ThreadPoolExecutor(threads) as pool:
            return list(tracked(pool.map(work, parts), title, len(parts)))

    def places_of(self, tree: Tree, part: slice) -> Tensor:
        """The leaf of each row of the block."""
        return self.structure.leaf[tree.leaf, part].long()

    def weights_of(self, tree: Tree, part: slice) -> Float[Tensor, " b"]:
        """What each row of the block weighs in that tree: its weight times how often it is in the bag."""
        bags = self.structure.bags
        return self.w[part] if tree.bag is None or bags is None else self.w[part] * bags[tree.bag, part]

    def slopes_at(self, scores: Float[Tensor, "b c"], part: slice) -> Slopes:
        """Residuals and second derivatives of the rows of a block."""
        return self.loss.slopes(scores, self.targets[part])
