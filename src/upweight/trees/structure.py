"""The structure of an ensemble, held fixed: which leaf each row is in, and how leaf values become scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int

from ..types import Tensor


@dataclass(frozen=True)
class Tree:
    """One tree: its row in `Structure.leaf`, the output that it moves, how many leaves it has.

    `damping` (leaves,) is what their denominators have beside the sum of w h, on the *total*; `l1` what pulls their
    numerators to 0; `limit` what values are clipped at, or None. `bag` is its row in `Structure.bags`, or None where
    all rows were in it.
    """

    leaf: int
    output: int
    size: int
    damping: Float[Tensor, " leaves"]
    l1: float = 0.0
    limit: float | None = None
    bag: int | None = None


@dataclass(frozen=True)
class Round:
    """Trees that were fitted at the same scores, and what of their leaf values is added to them.

    `steps` are the shares of the Newton steps that the leaf values are the sum of: one step, and all of it, but for
    CatBoost, each of whose steps is taken where the one before it ended. `rate` is the learning rate.
    """

    trees: tuple[Tree, ...]
    rate: float
    steps: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, eq=False)
class Structure:
    """All rounds of an ensemble with c outputs, the leaves of the n training rows, and of any others.

    Args:
        rounds: in the order of training.
        c: how many scores a row has.
        leaf: which leaf of each tree (t, n) every training row is in, counted from 0.
        apply: the leaves (t, m) of m rows as the user has them.
        bags: how often each training row (b, n) counted in a bag.
        paths: whether each column is on the path to each leaf, a sparse matrix, the leaves in the order of `leaf`.

    The leaf values stand in a flat vector theta behind the c start scores: round by round, step by step, tree by tree.
    """

    rounds: tuple[Round, ...]
    c: int
    leaf: Int[Tensor, "t n"]
    apply: Callable[[Any], Tensor]
    bags: Tensor | None = None
    paths: Any = None

    @property
    def n(self) -> int:
        """The number of training rows."""
        return self.leaf.shape[1]

    @cached_property
    def places(self) -> list[list[list[slice]]]:
        """Where the leaf values of each round, step and tree stand in theta."""
        found, at = [], self.c
        for one in self.rounds:
            steps = []
            for _ in one.steps:
                trees = []
                for tree in one.trees:
                    trees.append(slice(at, at + tree.size))
                    at += tree.size
                steps.append(trees)
            found.append(steps)
        return found

    @cached_property
    def p(self) -> int:
        """The length of theta."""
        return self.places[-1][-1][-1].stop if self.rounds else self.c

    def name_of(self, place: int) -> str:
        """What the entry of theta at that place is called in messages."""
        for r, steps in enumerate(self.places):
            for step in steps:
                for i, own in enumerate(step):
                    if own.start <= place < own.stop:
                        return f"leaf {place - own.start} of tree {i} of round {r}"
        return f"the start of score {place}"

    def numbered(self) -> list[tuple[Round, list[list[slice]]]]:
        """The rounds with the places of their leaf values."""
        return list(zip(self.rounds, self.places, strict=True))

    def shares(self) -> Iterator[tuple[Tree, slice, float]]:
        """Each tree, with the place of its values in theta and the factor with which they enter the final scores."""
        for one, places in self.numbered():
            for share, step in zip(one.steps, places, strict=True):
                for tree, place in zip(one.trees, step, strict=True):
                    yield tree, place, one.rate * share

    def met(self, leaf: Int[Tensor, " t"]) -> Float[Tensor, " p"]:
        """1 for the leaf values of the leaves that a row is in, its start scores among them; 0 for all others."""
        found = torch.zeros(self.p, dtype=torch.float64)
        found[: self.c] = 1
        for tree, place, _ in self.shares():
            found[place.start + int(leaf[tree.leaf])] = 1
        return found

    @cached_property
    def columns(self) -> Any:
        """What part of each leaf value each column is given (p, d): one over the columns on its path, sparse."""
        from scipy import sparse

        sizes = {tree.leaf: tree.size for one in self.rounds for tree in one.trees}
        starts = dict(zip(sizes, torch.tensor([0, *sizes.values()]).cumsum(0).tolist(), strict=False))
        rows = torch.cat([torch.arange(tree.size) + starts[tree.leaf] for tree, _, _ in self.shares()])
        each = sparse.diags(1 / self.paths.getnnz(1).clip(1)) @ self.paths
        return sparse.vstack([sparse.csr_matrix((self.c, each.shape[1])), each.tocsr()[rows.numpy()]]).tocsr()

    def take(self, index: Tensor) -> Structure:
        """The structure for some of the training rows."""
        bags = None if self.bags is None else self.bags[:, index]
        return Structure(self.rounds, self.c, self.leaf[:, index], self.apply, bags, self.paths)

    def scores(self, theta: Float[Tensor, "k p"], leaf: Int[Tensor, "t m"]) -> Float[Tensor, "k m c"]:
        """The scores of m rows by their leaves, at k stacks of leaf values."""
        found = theta[:, None, : self.c].repeat(1, leaf.shape[1], 1)
        for tree, place, share in self.shares():
            found[:, :, tree.output] += share * theta[:, place][:, leaf[tree.leaf].long()]
        return found

    def gradients(self, slopes: Float[Tensor, "m c"], leaf: Int[Tensor, "t m"]) -> Float[Tensor, "m p"]:
        """The gradient in theta of m numbers, each of one row's scores, with derivatives `slopes` in these."""
        found = slopes.new_zeros(len(slopes), self.p)
        found[:, : self.c] = slopes
        rows = torch.arange(len(slopes))
        for tree, place, share in self.shares():
            found[rows, place.start + leaf[tree.leaf].long()] += share * slopes[:, tree.output]
        return found

    def pulled_back(self, slopes: Float[Tensor, "m c k"], leaf: Int[Tensor, "t m"]) -> Float[Tensor, "k p"]:
        """The transpose of `scores`: sums over m rows of k gradients in their scores, as gradients in theta."""
        found = slopes.new_zeros(slopes.shape[2], self.p)
        found[:, : self.c] = slopes.sum(0).T
        for tree, place, share in self.shares():
            sums = slopes.new_zeros(tree.size, slopes.shape[2])
            found[:, place] = share * sums.index_add_(0, leaf[tree.leaf].long(), slopes[:, tree.output]).T
        return found
