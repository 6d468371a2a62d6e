"""What the steps of each round saw of the rows: from numbers that are kept, or from the scores as the rounds go by."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float

from ..types import Tensor
from .rows import Kept, met_at
from .structure import Round
from .together import Together
from .trained import Trained

Seen: TypeAlias = Callable[[slice], tuple[list[Tensor], Tensor | None]]
"""Of a block of rows, at one step: w E in each tree of the round (b,), and q of `losses.spread` (b, c)."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Leaf values as training gives them: theta (p,), the denominators of the leaves (p,), the last scores (n, c).

    `empty` (p,) are leaves without rows and without damping, whose value 0 stands for nothing. `kept` is what rows add
    to the equations, where it is kept for the next question. `together` are the matrices in place of denominators, for
    the steps of which the values of a leaf are solved for together.
    """

    theta: Float[Tensor, " p"]
    below: Float[Tensor, " p"]
    scores: Float[Tensor, "n c"]
    empty: Tensor
    kept: Kept | None = None
    together: Together | None = None

    def divided(self, step: list[slice], sums: list[Tensor]) -> list[Tensor]:
        """Numbers (leaves, k) of each tree of a step, divided by the denominators of their leaves."""
        if self.together is not None:
            return self.together.solve(step, sums)
        return [own / self.below[place, None] for place, own in zip(step, sums, strict=True)]

    def multiplied(self, step: list[slice], values: list[Tensor]) -> list[Tensor]:
        """Numbers (leaves, k) of each tree of a step, times the denominators of their leaves."""
        if self.together is not None:
            return self.together.multiply(step, values)
        return [self.below[place, None] * own for place, own in zip(step, values, strict=True)]


def seen_forwards(trained: Trained, fitted: Fitted) -> Iterator[tuple[Round, list[list[slice]], list[Seen]]]:
    """Each round with the places of its leaf values and what its steps saw, from the first to the last."""
    if fitted.kept is not None:
        yield from _kept(trained, fitted.kept)
        return
    scores = fitted.theta[: trained.structure.c].repeat(trained.n, 1)
    for one, places in trained.structure.numbered():
        yield one, places, _computed(trained, one, places, fitted.theta, scores)
        added(trained, one, fitted.theta, places, 1, scores)


def seen_backwards(trained: Trained, fitted: Fitted) -> Iterator[tuple[Round, list[list[slice]], list[Seen]]]:
    """Each round with the places of its leaf values and what its steps saw, from the last to the first."""
    if fitted.kept is not None:
        yield from _kept(trained, fitted.kept)[::-1]
        return
    scores = fitted.scores.clone()
    for one, places in trained.structure.numbered()[::-1]:
        added(trained, one, fitted.theta, places, -1, scores)
        yield one, places, _computed(trained, one, places, fitted.theta, scores)


def _computed(
    trained: Trained, one: Round, places: list[list[slice]], theta: Tensor, scores: Tensor
) -> list[Seen]:
    def step(j: int) -> Seen:
        at = within(trained, one, theta, places[:j], scores)

        def seen(part: slice) -> tuple[list[Tensor], Tensor | None]:
            found = met_at(trained, one, places[j], (theta, at[part]), part)
            return [met.bent for met in found], found[0].slopes.q

        return seen

    return [step(j) for j in range(len(one.steps))]


def _kept(trained: Trained, kept: Kept) -> list[tuple[Round, list[list[slice]], list[Seen]]]:
    found, at, g = [], 0, 0
    for one, places in trained.structure.numbered():
        steps: list[Seen] = []
        for _ in one.steps:

            def seen(
                part: slice, at: int = at, g: int = g, one: Round = one
            ) -> tuple[list[Tensor], Tensor | None]:
                bents = list(kept.bent[at : at + len(one.trees), part])
                return bents, None if kept.q is None else kept.q[g, part]

            steps.append(seen)
            at, g = at + len(one.trees), g + 1
        found.append((one, places, steps))
    return found


def added(
    trained: Trained, one: Round, theta: Tensor, steps: list[list[slice]], sign: int, scores: Tensor
) -> None:
    """Add what a round's leaf values, of all its steps, are to the scores, in place; or take it away again.

    Args:
        trained: whose rows.
        one: the round.
        theta: the leaf values.
        steps: where those of the round stand, of each step.
        sign: 1 or -1.
        scores: (n, c).
    """

    def work(part: slice) -> None:
        for tree, places in zip(one.trees, zip(*steps, strict=True), strict=True):
            value = trained.rounded(one.rate * _combined(theta, one, places))
            found = value.index_select(0, trained.places_of(tree, part))
            scores[part, tree.output].add_(found, alpha=sign)

    trained.blocks(trained.structure.c, work)


def _combined(theta: Tensor, one: Round, places: tuple[slice, ...]) -> Tensor:
    """What the first Newton steps of a tree add up to in its leaves."""
    shares = zip(one.steps, places, strict=False)
    return torch.stack([share * theta[place] for share, place in shares]).sum(0)


def within(
    trained: Trained, one: Round, theta: Tensor, before: list[list[slice]], scores: Tensor
) -> Float[Tensor, "n c"]:
    """The scores inside a round, after some of its Newton steps, whose whole length is not shrunk yet.

    Args:
        trained: whose rows.
        one: the round.
        theta: the leaf values.
        before: where those of the round stand, of the steps taken.
        scores: those that the rounds before left.
    """
    if not before:
        return scores
    found = scores.clone()
    for tree, places in zip(one.trees, zip(*before, strict=True), strict=True):
        value = _combined(theta, one, places)
        found[:, tree.output] += value.index_select(0, trained.structure.leaf[tree.leaf].long())
    return found
