"""The derivatives of all leaves' equations in all leaf values, written out: what many questions are solved with."""

from __future__ import annotations

import torch
from jaxtyping import Float

from ..types import Tensor
from .losses import spread
from .seen import Fitted, Seen, seen_forwards
from .structure import Round, Tree
from .trained import Trained

PLACES = 12_288
"""Leaf values up to which the matrix is written out: 1.2 GB."""
TOGETHER = 1 << 17
"""Meetings of a row with an earlier tree that are counted together: they stay in cache."""


def worth_writing(trained: Trained, k: int) -> bool:
    """Whether the matrix may be written out, and costs less than k passes: half the number of trees, four times each.

    It may be of few leaf values, each the end of one Newton step, and divided by a number of its own.
    """
    if trained.loss.together:
        return False
    structure = trained.structure
    trees = sum(len(one.trees) for one in structure.rounds)
    return 4 * k >= trees and structure.p <= PLACES and all(len(one.steps) == 1 for one in structure.rounds)


def derivatives(trained: Trained, fitted: Fitted) -> Float[Tensor, "p p"]:
    """A (p, p), lower triangular: what `passes.multiply` multiplies by, for rounds of one step each.

    Its diagonal are the denominators; what a leaf has in the column of an earlier round's leaf is minus the sum of w E
    over the rows that are in both, so that every pair of trees is met once by every row. Rows of values that do not
    move are those of the identity.
    """
    structure, c = trained.structure, trained.structure.c
    moves = ~fitted.below.isinf()
    A = torch.diag(fitted.below.masked_fill(~moves, 1))
    before: list[Tree] = []
    for one, (step,), (seen,) in seen_forwards(trained, fitted):
        for place, sums in zip(step, _shared(trained, one, seen, before), strict=True):
            A[place, : step[0].start] = -sums * moves[place, None]
        before.extend(one.trees)
    at = c
    for one in structure.rounds:
        for tree in one.trees:
            column = slice(at, at + tree.size)
            A[column.stop :, column] *= one.rate
            at = column.stop
    return A


def _shared(
    trained: Trained, one: Round, seen: Seen, before: list[Tree]
) -> list[Float[Tensor, "leaves before"]]:
    """How the equations of a round's leaves, for each tree, feel the start scores and the leaf values before them.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        seen: what it saw.
        before: the trees of the rounds before it.
    """
    sizes = [tree.size for tree in before]
    leaves = torch.tensor([tree.leaf for tree in before], dtype=torch.long)
    outputs = torch.tensor([tree.output for tree in before], dtype=torch.long)

    def work(part: slice) -> list[Tensor]:
        (bents, q), found = seen(part), []
        together = max(1, TOGETHER // len(bents[0]))
        for tree, bent in zip(one.trees, bents, strict=True):
            where = trained.places_of(tree, part)
            pull = bent.new_zeros(len(bent), trained.structure.c)
            pull[:, tree.output] = bent
            felt = spread(q, pull[:, :, None])[:, :, 0].T.contiguous()
            sums = [torch.bincount(where, line, tree.size)[:, None] for line in felt]
            for at in range(0, len(before), together):
                some = slice(at, at + together)
                first = torch.tensor([0, *sizes[some]], dtype=torch.int32).cumsum(0, dtype=torch.int32)
                width = int(first[-1])
                keys = trained.structure.leaf[:, part].index_select(0, leaves[some]).int()
                keys += first[:-1, None] + width * where.int()
                weights = felt.index_select(0, outputs[some])
                counted = torch.bincount(keys.flatten(), weights.flatten(), tree.size * width)
                sums.append(counted.view(tree.size, width))
            found.append(torch.cat(sums, dim=1))
        return found

    return [torch.stack(parts).sum(0) for parts in zip(*trained.blocks(1, work), strict=True)]
