"""What each row adds to the equations of the leaves that it is in, and how that moves with its scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..types import Tensor
from .losses import Slopes
from .structure import Round
from .trained import Trained

KEPT = 1 << 27
"""Meetings of a row and a tree whose numbers are kept between questions: at 20 bytes each, 28 where classes compete."""
WIDE = 4
"""Of rows whose equations in some trees stand side by side: so many times fewer are worked on at once."""
TREES = 16
"""Trees and steps whose equations stand side by side."""


class Met(NamedTuple):
    """The rows of a block in one tree: the places of their leaves in theta, their weights, slopes, and leaf values.

    `seen` is what of the values their equations see: all, but where those of several trees are solved for together.
    """

    place: Int[Tensor, " b"]
    w: Float[Tensor, " b"]
    slopes: Slopes
    output: int
    value: Float[Tensor, " b"]
    seen: Float[Tensor, " b"]

    @property
    def own(self) -> Float[Tensor, " b"]:
        """W (r - V h): what each row adds to the equation of its leaf."""
        return self.slopes.pulled(self.output, self.seen).mul_(self.w)

    @property
    def bent(self) -> Float[Tensor, " b"]:
        """W E: how that moves with the row's scores."""
        return self.slopes.bent(self.output, self.seen).mul_(self.w)


def met_at(
    trained: Trained, one: Round, step: list[slice], about: tuple[Tensor, Tensor], part: slice
) -> list[Met]:
    """The rows of a block in each tree of a round, at one of its steps.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        step: the places of the step's leaf values.
        about: theta, and the scores (b, c) of the block that the step saw.
        part: the block.
    """
    theta, scores = about
    slopes, found = trained.slopes_at(scores, part), []
    for tree, place in zip(one.trees, step, strict=True):
        where = trained.places_of(tree, part)
        value = theta[place].index_select(0, where)
        w = trained.weights_of(tree, part)
        found.append(Met(where.int() + place.start, w, slopes, tree.output, value, value))
    if not trained.loss.together:
        return found
    assert slopes.q is not None
    mean = (slopes.q * torch.stack([met.value for met in found], 1)).sum(1)
    return [met._replace(seen=met.value - mean) for met in found]


def met_rows(trained: Trained, theta: Float[Tensor, " p"], part: slice) -> Iterator[list[Met]]:
    """The rows of a block in all trees, round after round and step after step, forwards.

    Args:
        trained: rows with their leaves, targets and weights; start and leaf values may be those of other rows.
        theta: the leaf values.
        part: the block.
    """
    structure, c = trained.structure, trained.structure.c
    scores = theta[:c].repeat(len(trained.w[part]), 1)
    for one, places in structure.numbered():
        single = len(one.steps) == 1
        inside = scores if single else scores.clone()
        for share, step in zip(one.steps, places, strict=True):
            found = met_at(trained, one, step, (theta, inside), part)
            yield found
            for met in found:
                scores[:, met.output].add_(met.value, alpha=one.rate * share)
                if not single:
                    inside[:, met.output].add_(met.value, alpha=share)


@dataclass(frozen=True, eq=False)
class Kept:
    """What `met_rows` gives of all rows, kept: t trees and steps, g steps of all rounds.

    `place` (n, t) are the leaves, `own` (n, t) what rows add to their equations, `bent` (t, n) how that moves, and `q`
    (g, n, c) what `losses.spread` takes, if anything.
    """

    place: Int[Tensor, "n t"]
    own: Float[Tensor, "n t"]
    bent: Float[Tensor, "t n"]
    q: Float[Tensor, "g n c"] | None


def keep(trained: Trained, theta: Float[Tensor, " p"], title: str | None = None) -> Kept | None:
    """What `met_rows` gives of all rows, or None where it would be too much to keep.

    Args:
        trained: what the leaf values were computed from.
        theta: the leaf values.
        title: of a progress bar; None: there is none.
    """
    n, c, t = trained.n, trained.structure.c, sum(1 for _ in trained.structure.shares())
    steps = sum(len(one.steps) for one in trained.structure.rounds)
    if n * t > KEPT:
        return None
    competing = trained.slopes_at(torch.zeros(1, c, dtype=torch.float64), slice(0, 1)).q is not None
    kept = Kept(
        torch.empty(n, t, dtype=torch.int32),
        torch.empty(n, t, dtype=torch.float64),
        torch.empty(t, n, dtype=torch.float64),
        torch.empty(steps, n, c, dtype=torch.float64) if competing else None,
    )

    def work(part: slice) -> None:
        def met() -> Iterator[Met]:
            for g, found in enumerate(met_rows(trained, theta, part)):
                q = found[0].slopes.q
                if kept.q is not None and q is not None:
                    kept.q[g, part] = q
                yield from found

        at, each = 0, met()
        while some := list(itertools.islice(each, TREES)):
            place, own = side_by_side(some)
            there = slice(at, at + len(some))
            kept.place[part, there], kept.own[part, there], at = place, own, there.stop
            torch.stack([one.bent for one in some], out=kept.bent[there, part])

    trained.blocks(WIDE, work, title)
    return kept


def side_by_side(some: list[Met]) -> tuple[Int[Tensor, "b t"], Float[Tensor, "b t"]]:
    """Places and equations of a block of rows in some trees, those of a row beside each other."""
    return torch.stack([met.place for met in some], 1), torch.stack([met.own for met in some], 1)
