"""Passes over the rounds of an ensemble: leaf values from data, forwards, and derivatives of them, backwards.

The leaf values are not the minimum of one objective: round after round solves, for the leaf values V of its own trees
at the scores F that the rounds before left, sum_i w_i (r_i - V h_i) = L V in every leaf. The matrix of derivatives of
these equations is lower triangular, round by round, so that a question costs a pass from the last round to the first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float

from ..runtime.progress import track
from ..types import Tensor
from .structure import Round, Tree
from .trained import Trained

T = TypeVar("T")


def leaf_values(tree: Tree, G: Tensor, H: Tensor, damped: float = 1.0) -> tuple[Tensor, Tensor]:
    """The values V of a tree's leaves and their denominators, which are infinite where V does not move.

    Args:
        tree: whose damping, l1 and limit.
        G: the sums of w r in each leaf.
        H: the sums of w h.
        damped: what its damping is multiplied by.
    """
    top = G.sign() * (G.abs() - tree.l1).clamp(min=0)
    below = H + damped * tree.damping
    value = torch.where(below > 0, top / below.clamp(min=torch.finfo(below.dtype).tiny), 0)
    still = (below <= 0) | ((tree.l1 > 0) & (top == 0))
    if tree.limit is not None:
        still |= value.abs() > tree.limit
        value = value.clamp(-tree.limit, tree.limit)
    return value, below.masked_fill(still, torch.inf)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Leaf values as training gives them: theta (p,), the denominators of the leaves (p,), the last scores (n, c).

    `empty` (p,) are leaves without rows and without damping, whose value 0 stands for nothing.
    """

    theta: Float[Tensor, " p"]
    below: Float[Tensor, " p"]
    scores: Float[Tensor, "n c"]
    empty: Tensor


def fit(trained: Trained, title: str | None = None, given: Tensor | None = None) -> Fitted:
    """The leaf values of the structure from rows and weights, as its library computes them, round after round.

    Args:
        trained: structure, loss, start and rows.
        title: of a progress bar; None: there is none.
        given: leaf values (p,) that each round goes on from in place of those that are computed, but for NaN.
    """
    structure, c = trained.structure, trained.structure.c
    theta = torch.zeros(structure.p, dtype=torch.float64)
    below, empty = torch.ones_like(theta), torch.zeros_like(theta, dtype=torch.bool)
    theta[:c] = trained.start_scores()
    led = theta if given is None else given.clone()
    scores = trained.rounded(theta[:c].repeat(trained.n, 1))
    for one, places in _tracked(structure.numbered(), title):
        for j, step in enumerate(places):
            at = _within(trained, one, led, places[:j], scores)
            for tree, place, (G, H) in zip(one.trees, step, _leaf_sums(trained, one, at), strict=True):
                theta[place], below[place] = leaf_values(tree, G, H, trained.damped)
                empty[place] = H + tree.damping <= 0
                led[place] = torch.where(led[place].isnan(), theta[place], led[place])
        _add(trained, one, led, places, 1, scores)
        scores = trained.rounded(scores)
    return Fitted(theta, below, scores, empty)


def _tracked(rounds: list[T], title: str | None) -> Iterator[T]:
    return iter(rounds) if title is None else track(rounds, title, len(rounds))


def _leaf_sums(trained: Trained, one: Round, scores: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The sums of w r and of w h in the leaves of each tree of a round."""

    def work(part: slice) -> list[tuple[Tensor, Tensor]]:
        found, slopes = [], trained.slopes_at(scores[part], part)
        for tree in one.trees:
            where, w = trained.places_of(tree, part), trained.weights_of(tree, part)
            r, h = w * slopes.r[:, tree.output], w * slopes.h[:, tree.output]
            found.append((torch.bincount(where, r, tree.size), torch.bincount(where, h, tree.size)))
        return found

    parts = trained.blocks(trained.structure.c, work)
    each = [
        [torch.stack(sums).sum(0) for sums in zip(*tree, strict=True)] for tree in zip(*parts, strict=True)
    ]
    return [(G, H) for G, H in each]


def solve_backwards(
    trained: Trained, fitted: Fitted, rows: Float[Tensor, "k p"], title: str | None = None
) -> Float[Tensor, "k p"]:
    """A^-T v for every row v (k, p), A the derivatives of the total of all leaves' equations in the leaf values.

    From the last round to the first: what the measure and all later rounds feel of a leaf's value, divided by its
    denominator. Time and memory are those of k numbers per row and tree, and of k numbers per row and output.

    Args:
        trained: what the leaf values were computed from.
        fitted: the leaf values.
        rows: the gradients of k measures in them.
        title: of a progress bar; None: there is none.
    """
    structure, k = trained.structure, len(rows)
    v, found = rows.T.contiguous(), torch.empty(structure.p, k, dtype=torch.float64)
    felt = torch.zeros(trained.n, structure.c, k, dtype=torch.float64)
    scores = fitted.scores.clone()
    for one, places in _tracked(structure.numbered()[::-1], title):
        _add(trained, one, fitted.theta, places, -1, scores)
        inside = None if len(one.steps) == 1 else one.rate * felt
        for j in reversed(range(len(one.steps))):
            at = _within(trained, one, fitted.theta, places[:j], scores)
            here, share = (felt, one.rate) if inside is None else (inside, one.steps[j])
            for place, sums in zip(places[j], _sums(trained, one, here), strict=True):
                found[place] = (share * sums + v[place]) / fitted.below[place, None]
            to = (felt,) if inside is None else (felt, inside)
            _pull(trained, one, places[j], (fitted.theta, found), at, to)
    found[: structure.c] = felt.sum(0) + v[: structure.c]
    return found.T


def solve_forwards(
    trained: Trained, fitted: Fitted, rows: Float[Tensor, "k p"], title: str | None = None
) -> Float[Tensor, "k p"]:
    """A^-1 v for every row v (k, p): how the leaf values move as their equations do, from the first round to the last.

    Args:
        trained: what the leaf values were computed from.
        fitted: the leaf values.
        rows: k moves of the equations.
        title: of a progress bar; None: there is none.
    """
    return _forwards(trained, fitted, rows, title, inverse=True)


def multiply(trained: Trained, fitted: Fitted, rows: Float[Tensor, "k p"]) -> Float[Tensor, "k p"]:
    """A v for every row v (k, p), by a pass from the first round to the last.

    Args:
        trained: what the leaf values were computed from.
        fitted: the leaf values.
        rows: k moves of the leaf values.
    """
    return _forwards(trained, fitted, rows, None, inverse=False)


def _forwards(
    trained: Trained, fitted: Fitted, rows: Tensor, title: str | None, *, inverse: bool
) -> Float[Tensor, "k p"]:
    structure, c = trained.structure, trained.structure.c
    v, found = rows.T.contiguous(), rows.T.clone()
    moves = v if not inverse else found  # of the leaf values
    scores = fitted.theta[:c].repeat(trained.n, 1)
    moved = v[:c].repeat(trained.n, 1, 1)
    for one, places in _tracked(structure.numbered(), title):
        inside = None if len(one.steps) == 1 else moved.clone()
        for j, share in enumerate(one.steps):
            at = _within(trained, one, fitted.theta, places[:j], scores)
            here = moved if inside is None else inside
            felt = _felt(trained, one, places[j], fitted.theta, at, here)
            for place, sums in zip(places[j], felt, strict=True):
                below = fitted.below[place, None]
                found[place] = (v[place] + sums) / below if inverse else below * v[place] - sums
                found[place] = torch.where(below.isinf(), 0 if inverse else v[place], found[place])
            if inside is not None:
                _add_rows(trained, one, moves, places[j], share, inside)
        _add(trained, one, fitted.theta, places, 1, scores)
        if inside is None:
            _add_rows(trained, one, moves, places[0], one.rate, moved)
        else:
            moved += one.rate * (inside - moved)
    return found.T


def row_products(
    trained: Trained, fitted: Fitted, rows: Float[Tensor, "k p"], title: str | None = None
) -> Float[Tensor, "k n"]:
    """S . c_i for every row s and training row i, c_i what the row adds to the equations of all leaves that it is in.

    Args:
        trained: what the leaf values were computed from.
        fitted: the leaf values.
        rows: k vectors s (k, p).
        title: of a progress bar; None: there is none.
    """
    structure, c, k = trained.structure, trained.structure.c, len(rows)
    s = rows.T.contiguous()
    found = trained.start_slopes() @ s[:c]
    scores = fitted.theta[:c].repeat(trained.n, 1)
    for one, places in _tracked(structure.numbered(), title):
        for j in range(len(one.steps)):
            at = _within(trained, one, fitted.theta, places[:j], scores)

            def work(part: slice, at: Tensor = at, one: Round = one, step: list[slice] = places[j]) -> None:
                slopes = trained.slopes_at(at[part], part)
                for tree, place in zip(one.trees, step, strict=True):
                    where = trained.places_of(tree, part)
                    value = fitted.theta[place].index_select(0, where)
                    own = trained.weights_of(tree, part) * slopes.pulled(tree.output, value)
                    found[part].addcmul_(s[place].index_select(0, where), own[:, None])

            trained.blocks(c * k, work)
        _add(trained, one, fitted.theta, places, 1, scores)
    return found.T


# -- one round -------------------------------------------------------------------------------------------------------


def _add(
    trained: Trained, one: Round, theta: Tensor, steps: list[list[slice]], sign: int, scores: Tensor
) -> None:
    """Add what a round's leaf values, of all its steps, are to the scores, in place; or take it away again."""

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


def _within(
    trained: Trained, one: Round, theta: Tensor, before: list[list[slice]], scores: Tensor
) -> Float[Tensor, "n c"]:
    """The scores inside a round, after some of its Newton steps, whose whole length is not shrunk yet."""
    if not before:
        return scores
    found = scores.clone()
    for tree, places in zip(one.trees, zip(*before, strict=True), strict=True):
        value = _combined(theta, one, places)
        found[:, tree.output] += value.index_select(0, trained.structure.leaf[tree.leaf].long())
    return found


def _add_rows(
    trained: Trained, one: Round, moves: Tensor, step: list[slice], share: float, to: Tensor
) -> None:
    """Add a share of k moves (p, k) of the leaf values of a step to the moves (n, c, k) of the scores, in place."""

    def work(part: slice) -> None:
        for tree, place in zip(one.trees, step, strict=True):
            found = moves[place].index_select(0, trained.places_of(tree, part))
            to[part, tree.output].add_(found, alpha=share)

    trained.blocks(to[0].numel(), work)


def _sums(trained: Trained, one: Round, values: Float[Tensor, "n c k"]) -> list[Float[Tensor, "leaves k"]]:
    """The sums of some values over the rows of each leaf, for each tree of a round, in its own output."""

    def work(part: slice) -> list[Tensor]:
        return [
            _summed(trained.places_of(tree, part), values[part, tree.output], tree.size) for tree in one.trees
        ]

    return [torch.stack(parts).sum(0) for parts in zip(*trained.blocks(values[0].numel(), work), strict=True)]


def _summed(where: Tensor, values: Float[Tensor, "b k"], size: int) -> Float[Tensor, "leaves k"]:
    if values.shape[1] == 1:
        return torch.bincount(where, values[:, 0], size)[:, None]
    return values.new_zeros(size, values.shape[1]).index_add_(0, where, values)


def _pull(
    trained: Trained,
    one: Round,
    step: list[slice],
    about: tuple[Tensor, Tensor],
    scores: Tensor,
    to: tuple[Tensor, ...],
) -> None:
    """Add what the equations of a step, each times its answer, feel of the scores of each row.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        step: the places of the step's leaf values.
        about: theta (p,) and the answers (p, k).
        scores: those that the step saw.
        to: the (n, c, k) that are added to, in place.
    """
    theta, answers = about

    def work(part: slice) -> None:
        slopes, pull = trained.slopes_at(scores[part], part), None
        for tree, place in zip(one.trees, step, strict=True):
            where = trained.places_of(tree, part)
            bent = slopes.bent(tree.output, theta[place].index_select(0, where))
            bent *= trained.weights_of(tree, part)
            own = answers[place].index_select(0, where).mul_(bent[:, None])
            if trained.structure.c == 1 and pull is None:
                pull = own[:, None]
            else:
                pull = torch.zeros_like(to[0][part]) if pull is None else pull
                pull[:, tree.output] += own
        if pull is not None:
            spread = slopes.spread(pull)
            for values in to:
                values[part] += spread

    trained.blocks(to[0][0].numel(), work)


def _felt(
    trained: Trained, one: Round, step: list[slice], theta: Tensor, scores: Tensor, moved: Tensor
) -> list[Float[Tensor, "leaves k"]]:
    """How the equations of each tree of a step move as the scores do: the transpose of `_pull`.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        step: the places of the step's leaf values.
        theta: the leaf values.
        scores: those that the step saw.
        moved: k moves of them (n, c, k).
    """

    def work(part: slice) -> list[Tensor]:
        slopes, found = trained.slopes_at(scores[part], part), []
        seen = slopes.relative(moved[part])
        for tree, place in zip(one.trees, step, strict=True):
            where = trained.places_of(tree, part)
            bent = slopes.bent(tree.output, theta[place].index_select(0, where))
            bent *= trained.weights_of(tree, part)
            found.append(_summed(where, bent[:, None] * seen[:, tree.output], tree.size))
        return found

    return [torch.stack(parts).sum(0) for parts in zip(*trained.blocks(moved[0].numel(), work), strict=True)]


def row_equations(trained: Trained, theta: Float[Tensor, " p"]) -> Float[Tensor, "n p"]:
    """What each row adds to the equation of each leaf, written out: n p numbers, for a few rows.

    Args:
        trained: rows with their leaves, targets and weights; start and leaf values are those of other rows.
        theta: the leaf values.
    """
    structure, c, everything = trained.structure, trained.structure.c, slice(0, trained.n)
    found = torch.zeros(trained.n, structure.p, dtype=torch.float64)
    found[:, :c] = trained.start_slopes()
    scores, rows = theta[:c].repeat(trained.n, 1), torch.arange(trained.n)
    for one, places in structure.numbered():
        for j, step in enumerate(places):
            at = _within(trained, one, theta, places[:j], scores)
            slopes = trained.slopes_at(at, everything)
            for tree, place in zip(one.trees, step, strict=True):
                where = trained.places_of(tree, everything)
                own = trained.weights_of(tree, everything) * slopes.pulled(tree.output, theta[place][where])
                found[rows, place.start + where] += own
        _add(trained, one, theta, places, 1, scores)
    return found
