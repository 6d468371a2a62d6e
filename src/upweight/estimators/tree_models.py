"""From a fitted ensemble of trees to the `TreeProblem` of its leaf values: what readers of every library share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.user_terms import Terms
from ..errors import InfluenceError
from ..runtime.progress import track
from ..trees.losses import BoostedLoss
from ..trees.passes import fit
from ..trees.problem import TreeProblem
from ..trees.seen import Fitted
from ..trees.start import Start
from ..trees.structure import Round, Structure, Tree
from ..trees.trained import Trained
from ..types import Tensor

EXACT = 1e-6
"""How far rebuilt leaf values and scores may be off, as a share of the largest."""

ROWS_AT_ONCE = 200_000
"""Rows whose leaves a library is asked for at once."""


class Rows(NamedTuple):
    """The training rows as a reader sees them: inputs as the user has them, encoded targets, sample weights or None."""

    X: Any
    codes: np.ndarray
    weight: np.ndarray | None


@dataclass(frozen=True, eq=False)
class TreeReading:
    """What a fitted ensemble is, in the words of `trees`: readers fill it in.

    `rounds`, `outputs` and `apply` are those of `Structure`; `stored` the leaf values of the library, in the order of
    theta, without the start, NaN where it keeps none; `margins` gives its own scores (m, c) of rows as the user has
    them. `class_weights` (k,) are what the labels put into the weights, `start_sees_them` whether the start does too.
    `held_out` are training rows that it did not train on.
    """

    loss: BoostedLoss
    start: Start
    rounds: tuple[Round, ...]
    outputs: int
    apply: Callable[[Any], Tensor]
    stored: np.ndarray
    margins: Callable[[Any], np.ndarray]
    bags: Tensor | None = None
    class_weights: np.ndarray | None = None
    start_sees_them: bool = True
    held_out: np.ndarray | None = None
    weightless: bool = False
    """Whether sample weights have no part in the leaves."""
    single: bool = False
    """Whether the library keeps labels and weights in float32."""
    single_start: Start | None = None
    """The start as it is rounded by a library that adds the scores up in float32, else None."""
    notes: tuple[str, ...] = ()


TreeReader = Callable[[Any, Rows], TreeReading]
"""From a fitted ensemble and its training rows to what it is."""


def numbered_leaves(nodes: np.ndarray, leaves: list[np.ndarray]) -> Tensor:
    """Leaves (t, m) counted from 0 in each tree, from the node numbers (m, t) of a library and the leaves it has.

    Args:
        nodes: which node of each tree every row ends in.
        leaves: the numbers of the nodes of each tree that are leaves, ascending.
    """
    most = max((len(own) for own in leaves), default=1)
    found = np.empty(nodes.shape[::-1], np.int16 if most < 2**15 else np.int32)
    for t, own in enumerate(leaves):
        found[t] = np.searchsorted(own, nodes[:, t])
    return torch.from_numpy(found)


def _leaves_by_parts(apply: Callable[[Any], Tensor], X: Any) -> Tensor:
    """The leaves (t, m) of m rows, so many at a time that the numbers of a library, 8 bytes each, stay few."""
    from sklearn.utils import _safe_indexing

    count = X.shape[0] if hasattr(X, "shape") else len(X)
    if count <= ROWS_AT_ONCE or not (hasattr(X, "iloc") or isinstance(X, np.ndarray)):
        return apply(X)
    parts = np.split(np.arange(count), range(ROWS_AT_ONCE, count, ROWS_AT_ONCE))
    return torch.cat(
        [apply(_safe_indexing(X, part)) for part in track(parts, "leaves of all rows", len(parts))], dim=1
    )


def tree(leaf: int, output: int, size: int, damping: Any = 0.0, **more: Any) -> Tree:
    """A `Tree` whose leaves have the same damping, or each its own.

    Args:
        leaf: its row among the leaves.
        output: the score that it moves.
        size: how many leaves it has.
        damping: what denominators have beside w h, a number or one per leaf.
        more: what else a `Tree` takes.
    """
    each = torch.as_tensor(damping, dtype=torch.float64).expand(size).clone()
    return Tree(leaf, output, size, each, **more)


def tree_problem(reading: TreeReading, rows: Rows, terms: Terms, library: str) -> TreeProblem:
    """The problem of an ensemble's leaf values, once they are rebuilt from the data and found equal.

    Args:
        reading: what a reader found.
        rows: the training rows.
        terms: the user's terms.
        library: its name in messages.

    Raises:
        InfluenceError: where rebuilt leaf values or scores part from those of the model, with the place.
    """
    c, n = reading.outputs, len(rows.codes)
    apply = partial(_leaves_by_parts, reading.apply)
    structure = Structure(reading.rounds, c, apply(rows.X), apply, reading.bags)
    y, weight = rows.codes, np.ones(n)
    if rows.weight is not None and not reading.weightless:
        weight = np.asarray(rows.weight, np.float64)
    if reading.single:
        weight = weight.astype(np.float32).astype(np.float64)
        y = y if y.dtype.kind in "iu" else y.astype(np.float32).astype(np.float64)
    w = torch.from_numpy(weight.copy())
    if reading.held_out is not None:
        w[torch.from_numpy(reading.held_out)] = 0
    targets = reading.loss.loss.encode(torch.from_numpy(np.ascontiguousarray(y)), c)
    by_label = None
    if reading.class_weights is not None:
        by_label = torch.from_numpy(np.asarray(reading.class_weights, np.float64))
        codes = (targets > 0).long() if c == 1 and reading.loss.loss.classifies else targets.long()
        by_label = by_label[codes]
        w = w * by_label
    trained = Trained(
        structure,
        reading.loss,
        reading.start,
        targets,
        reading.loss.numbers(targets, c),
        w,
        None if reading.start_sees_them else by_label,
    )
    fitted = fit(trained, "rebuilding the trees")
    if (parted := _parted(reading, rows, fitted, structure, library)) and reading.single_start is not None:
        # Far from 0 the rounding of the scores shows in the leaves: then it is followed, to see whether it is that.
        as_library = replace(trained, single=True, start=reading.single_start)
        parted = _parted(reading, rows, fit(as_library), structure, library)
    if parted:
        raise InfluenceError(parted)
    per_class = (
        None if reading.class_weights is None else torch.from_numpy(np.asarray(reading.class_weights, float))
    )
    return TreeProblem(trained, fitted, terms, per_class)


def _parted(reading: TreeReading, rows: Rows, fitted: Fitted, structure: Structure, library: str) -> str:
    """Where rebuilt leaf values or scores part from those of the model, in a sentence; "" where they do not."""
    advice = "Are these the rows, labels and weights that it was trained on, in this order, with the same categories?"
    stored, own = reading.stored, fitted.theta.numpy()[structure.c :]
    off = np.abs(np.where(np.isnan(stored), 0, own - stored))
    largest = np.nanmax(np.abs(stored), initial=1e-300)
    if len(off) and not off.max() <= EXACT * largest:
        at = int(off.argmax())
        return (
            f"the trees of this {library} model do not follow from the data: {structure.name_of(structure.c + at)} has "
            f"the value {stored[at]:.6g}, and {own[at]:.6g} when it is computed from the rows in it "
            f"({off[at] / largest:.1e} of the largest). {advice}"
        )
    model, scores = reading.margins(rows.X), fitted.scores.numpy()
    apart, largest = np.abs(model - scores), max(np.abs(model).max(), 1e-300)
    if not apart.max() <= EXACT * largest:
        row = int(apart.max(1).argmax())
        return (
            f"the scores of this {library} model do not follow from its trees: row {row} has {model[row].tolist()}, "
            f"and {scores[row].tolist()} when they are added up. {advice}"
        )
    return ""


def refused(model: Any, reason: str) -> ValueError:
    """The error for a setting that leaves the fit undetermined, with what to do instead.

    Args:
        model: the model.
        reason: which setting, and why.
    """
    return ValueError(
        f"{type(model).__name__} with {reason}; ask by retraining, uw.by_refitting(estimator, X, y), or fit without it"
    )
