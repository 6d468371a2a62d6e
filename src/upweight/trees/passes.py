"""Passes over the rounds of an ensemble: leaf values from data, forwards, and derivatives of them, backwards.

The leaf values are not the minimum of one objective: round after round solves, for the leaf values V of its own trees
at the scores F that the rounds before left, sum_i w_i (r_i - V h_i) = L V in every leaf. The matrix of derivatives of
these equations is lower triangular, round by round, so that a question costs a pass from the last round to the first.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from scipy import sparse

from ..types import Tensor
from .losses import coupled, relative, spread
from .quantiles import leaf_quantiles
from .rows import TREES, WIDE, met_rows, side_by_side
from .seen import Fitted, Seen, added, seen_backwards, seen_forwards, within
from .structure import Round, Tree
from .together import Together, leaf_sums, with_damping
from .trained import Trained, tracked


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
    together = Together() if trained.loss.together else None
    scores = trained.rounded(theta[:c].repeat(trained.n, 1))
    for one, places in tracked(structure.numbered(), title, len(structure.rounds)):
        for j, step in enumerate(places):
            at = within(trained, one, led, places[:j], scores)
            if (quantiles := trained.loss.quantiles) is not None:
                for tree, place in zip(one.trees, step, strict=True):
                    left = trained.targets[:, tree.output] - at[:, tree.output]
                    rows = trained.weights_of(tree, slice(None)), trained.places_of(tree, slice(None))
                    theta[place], empty[place] = leaf_quantiles(quantiles.leaf, left, *rows, tree.size)
            elif together is None:
                for tree, place, (G, H) in zip(one.trees, step, _leaf_sums(trained, one, at), strict=True):
                    theta[place], below[place] = leaf_values(tree, G, H, trained.damped)
                    empty[place] = H + tree.damping <= 0
            else:
                G, H = _sums_together(trained, one, at)
                H = with_damping(H, trained.damped * one.trees[0].damping)
                together.blocks[step[0].start] = H
                values = together.solve(step, list(G[:, :, None].unbind(1)))
                for k, (place, value) in enumerate(zip(step, values, strict=True)):
                    theta[place], below[place] = value[:, 0], H[:, k, k]
            for place in step:
                led[place] = torch.where(led[place].isnan(), theta[place], led[place])
        added(trained, one, led, places, 1, scores)
        scores = trained.rounded(scores)
    return Fitted(theta, below, scores, empty, together=together)


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


def _sums_together(trained: Trained, one: Round, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of w r and of w H in the leaves that all trees of a round share."""
    tree = one.trees[0]

    def work(part: slice) -> tuple[Tensor, Tensor]:
        slopes = trained.slopes_at(scores[part], part)
        return leaf_sums(slopes, trained.weights_of(tree, part), trained.places_of(tree, part), tree.size)

    G, H = zip(*trained.blocks(trained.structure.c**2, work), strict=True)
    return torch.stack(G).sum(0), torch.stack(H).sum(0)


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
    for one, places, steps in tracked(seen_backwards(trained, fitted), title, len(structure.rounds)):
        inside = None if len(one.steps) == 1 else one.rate * felt
        for j, seen in reversed(list(enumerate(steps))):
            here, share = (felt, one.rate) if inside is None else (inside, one.steps[j])
            sums = _sums(trained, one, here)
            total = [share * own + v[place] for place, own in zip(places[j], sums, strict=True)]
            for place, value in zip(places[j], fitted.divided(places[j], total), strict=True):
                found[place] = value
            to = (felt,) if inside is None else (felt, inside)
            _pull(trained, one, places[j], (found, seen), to)
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


def multiply(
    trained: Trained, fitted: Fitted, rows: Float[Tensor, "k p"], title: str | None = None
) -> Float[Tensor, "k p"]:
    """A v for every row v (k, p), by a pass from the first round to the last.

    Args:
        trained: what the leaf values were computed from.
        fitted: the leaf values.
        rows: k moves of the leaf values.
        title: of a progress bar; None: there is none.
    """
    return _forwards(trained, fitted, rows, title, inverse=False)


def _forwards(
    trained: Trained, fitted: Fitted, rows: Tensor, title: str | None, *, inverse: bool
) -> Float[Tensor, "k p"]:
    structure, c = trained.structure, trained.structure.c
    v, found = rows.T.contiguous(), rows.T.clone()
    moves = v if not inverse else found  # of the leaf values
    moved = v[:c].repeat(trained.n, 1, 1)
    for one, places, steps in tracked(seen_forwards(trained, fitted), title, len(structure.rounds)):
        inside = None if len(one.steps) == 1 else moved.clone()
        for j, (share, seen) in enumerate(zip(one.steps, steps, strict=True)):
            felt = _felt(trained, one, seen, moved if inside is None else inside)
            own = [v[place] for place in places[j]]
            if inverse:
                values = fitted.divided(places[j], [a + b for a, b in zip(own, felt, strict=True)])
            else:
                values = [a - b for a, b in zip(fitted.multiplied(places[j], own), felt, strict=True)]
            for place, value in zip(places[j], values, strict=True):
                still = fitted.below[place, None].isinf()
                found[place] = torch.where(still, 0 if inverse else v[place], value)
            if inside is not None:
                _add_rows(trained, one, moves, places[j], share, inside)
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
    s, kept = rows.T.contiguous(), fitted.kept
    found = trained.start_slopes() @ s[: trained.structure.c]

    def work(part: slice) -> None:
        some = (
            [(kept.place[part], kept.own[part])] if kept is not None else _some(trained, fitted.theta, part)
        )
        for place, own in some:
            ends = np.arange(len(own) + 1) * own.shape[1]
            # A row's places are all different, though not in order.
            matrix = sparse.csr_array(
                (own.numpy().ravel(), place.numpy().ravel(), ends.astype(np.int32)), (len(own), len(s))
            )
            found[part] += torch.from_numpy(matrix @ s.numpy())

    trained.blocks(WIDE, work, title)
    return found.T


def _some(trained: Trained, theta: Tensor, part: slice) -> Iterator[tuple[Tensor, Tensor]]:
    """Places and equations of some trees at a time."""
    each = itertools.chain.from_iterable(met_rows(trained, theta, part))
    while some := list(itertools.islice(each, TREES)):
        yield side_by_side(some)


def row_equations(trained: Trained, theta: Float[Tensor, " p"]) -> Float[Tensor, "n p"]:
    """What each row adds to the equation of each leaf: n p numbers, for a few rows.

    `trained` are rows with their leaves, targets and weights; start and leaf values may be those of other rows.
    """
    found = torch.zeros(trained.n, trained.structure.p, dtype=torch.float64)
    found[:, : trained.structure.c] = trained.start_slopes()
    rows = torch.arange(trained.n)
    for met in itertools.chain.from_iterable(met_rows(trained, theta, slice(0, trained.n))):
        found[rows, met.place] += met.own
    return found


# -- one round -------------------------------------------------------------------------------------------------------


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
    trained: Trained, one: Round, step: list[slice], about: tuple[Tensor, Seen], to: tuple[Tensor, ...]
) -> None:
    """Add what the equations of a step, each times its answer, feel of the scores of each row.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        step: the places of the step's leaf values.
        about: the answers (p, k), and what the step saw.
        to: the (n, c, k) that are added to, in place.
    """
    answers, seen = about

    def work(part: slice) -> None:
        bents, q = seen(part)
        pull = None
        for tree, place, bent in zip(one.trees, step, bents, strict=True):
            own = answers[place].index_select(0, trained.places_of(tree, part))
            own = own if trained.loss.together else own.mul_(bent[:, None])
            if trained.structure.c == 1 and pull is None:
                pull = own[:, None]
            else:
                pull = torch.zeros_like(to[0][part]) if pull is None else pull
                pull[:, tree.output] += own
        if pull is not None:
            pulled = coupled(q, bents, pull) if trained.loss.together else spread(q, pull)
            for values in to:
                values[part] += pulled

    trained.blocks(to[0][0].numel(), work)


def _felt(
    trained: Trained, one: Round, seen: Seen, moved: Float[Tensor, "n c k"]
) -> list[Float[Tensor, "leaves k"]]:
    """How the equations of each tree of a step move as the scores do: the transpose of `_pull`.

    Args:
        trained: what the leaf values were computed from.
        one: the round.
        seen: what the step saw.
        moved: k moves of the scores.
    """

    def work(part: slice) -> list[Tensor]:
        bents, q = seen(part)
        if trained.loss.together:
            felt = list(coupled(q, bents, moved[part]).unbind(1))
        else:
            move = relative(q, moved[part])
            felt = [bent[:, None] * move[:, tree.output] for tree, bent in zip(one.trees, bents, strict=True)]
        return [
            _summed(trained.places_of(tree, part), values, tree.size)
            for tree, values in zip(one.trees, felt, strict=True)
        ]

    return [torch.stack(parts).sum(0) for parts in zip(*trained.blocks(moved[0].numel(), work), strict=True)]
