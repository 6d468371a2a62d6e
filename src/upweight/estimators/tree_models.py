"""From a fitted ensemble of trees to the `TreeProblem` of its leaf values: what readers of every library share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ..data.user_terms import Terms
from ..errors import InfluenceError
from ..losses import LinearLoss
from ..runtime.progress import track
from ..trees.losses import BoostedLoss, BoostedOwn
from ..trees.passes import fit
from ..trees.problem import TreeProblem
from ..trees.seen import Fitted
from ..trees.start import Start
from ..trees.structure import Round, Structure, Tree
from ..trees.trained import Trained
from ..types import Tensor

ROUNDED = 1e-2
"""How far the library's own rounding may have moved its leaf values, as a share of the largest."""
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
    damped_by_mean: bool = False
    """Whether the damping of leaves is so much per mean weight of the rows."""
    single: bool = False
    """Whether the library keeps labels and weights in float32."""
    own_start: Start | None = None
    """The start as the library rounds it, where it does."""
    single_scores: bool = False
    """Whether the library adds the scores up in float32."""
    paths: Any = None
    """Which columns are on the path to each leaf, as `Structure` has it; None where they are not known."""
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


class Encoded(NamedTuple):
    """Rows as training saw them: targets as the loss has them, weights, and what the labels put into these or None."""

    targets: Tensor
    w: Tensor
    by_label: Tensor | None


def encoded_rows(
    rows: Rows,
    loss: BoostedLoss,
    c: int,
    class_weights: np.ndarray | None = None,
    *,
    single: bool = True,
    weightless: bool = False,
) -> Encoded:
    """The targets and weights of rows as a library trains on them.

    Args:
        rows: of training.
        loss: what is boosted.
        c: the number of outputs.
        class_weights: what the labels put into the weights (k,), or None.
        single: whether labels and weights are kept in float32.
        weightless: whether sample weights have no part in the leaves.
    """
    y, weight = rows.codes, np.ones(len(rows.codes))
    if rows.weight is not None and not weightless:
        weight = np.array(rows.weight, np.float64)
    if single:
        weight = weight.astype(np.float32).astype(np.float64)
        y = y if y.dtype.kind in "iu" else y.astype(np.float32).astype(np.float64)
    w = torch.from_numpy(weight)
    targets = loss.loss.encode(torch.from_numpy(np.ascontiguousarray(y)), c)
    if class_weights is None:
        return Encoded(targets, w, None)
    codes = (targets > 0).long() if c == 1 and loss.loss.classifies else targets.long()
    by_label = torch.from_numpy(np.asarray(class_weights, np.float64))[codes]
    return Encoded(targets, w * by_label, by_label)


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
    c = reading.outputs
    apply = partial(_leaves_by_parts, reading.apply)
    structure = Structure(reading.rounds, c, apply(rows.X), apply, reading.bags, reading.paths)
    targets, w, by_label = encoded_rows(
        rows, reading.loss, c, reading.class_weights, single=reading.single, weightless=reading.weightless
    )
    if reading.held_out is not None:
        w[torch.from_numpy(reading.held_out)] = 0
    trained = Trained(
        structure,
        reading.loss,
        reading.start,
        targets,
        reading.loss.numbers(targets, c),
        w,
        None if reading.start_sees_them else by_label,
        by_mean=reading.damped_by_mean,
    )
    fitted = fit(trained, "rebuilding the trees")
    parted = _parted(reading, rows, (fitted.theta, fitted.scores), trained, library)
    if parted and reading.own_start is not None and _near(fitted.theta[:c], reading.own_start):
        # Far from 0 the rounding of the scores shows in the leaves: then it is followed, to see whether it is that.
        as_library = replace(trained, single=reading.single_scores, start=reading.own_start)
        given = torch.cat([fitted.theta[:c], torch.from_numpy(reading.stored)])
        own = fit(as_library, given=given)
        if not (parted := _parted(reading, rows, (own.theta, own.scores), trained, library)):
            terms = replace(terms, notes=(*terms.notes, _rounding(reading, fitted, c, library)))
    if parted:
        raise InfluenceError(parted)
    per_class = (
        None if reading.class_weights is None else torch.from_numpy(np.asarray(reading.class_weights, float))
    )
    return TreeProblem(trained, fitted, terms, per_class)


def _near(start: Tensor, own: Start) -> bool:
    """Whether the library's own start is that of the data, but for rounding to float32."""
    theirs = own.value(start)
    return bool(((theirs - start).abs() <= 10 * EXACT * (1 + start.abs())).all())


def _rounding(reading: TreeReading, fitted: Fitted, c: int, library: str) -> str:
    """What is said of a model whose scores were rounded visibly.

    Args:
        reading: of the model.
        fitted: the leaf values without rounding.
        c: the number of outputs.
        library: its name.

    Raises:
        InfluenceError: where rounding moved them too far.
    """
    stored, own = reading.stored, fitted.theta.numpy()[c:]
    off = np.nanmax(np.abs(own - stored)) / np.nanmax(np.abs(stored))
    told = (
        f"{library} rounds its start and its scores to float32: leaf values without rounding are up to {off:.0e} of "
        "the largest apart from those of the model"
    )
    if off > ROUNDED:
        raise InfluenceError(
            f"{told}, too far for answers about it: take the mean off the targets and fit again"
        )
    return f"{told}; answers are about the former"


def _parted(
    reading: TreeReading, rows: Rows, rebuilt: tuple[Tensor, Tensor], trained: Trained, library: str
) -> str:
    """Where rebuilt leaf values or scores part from those of the model, in a sentence; "" where they do not.

    Args:
        reading: of the model.
        rows: of training.
        rebuilt: theta (p,) and the scores of the rows (n, c).
        trained: what they were computed from.
        library: its name.
    """
    structure = trained.structure
    advice = "Are these the rows, labels and weights that it was trained on, in this order, with the same categories? "
    advice += (
        "A start (base_margin, init_score), an objective or changing learning rates of your own are not read."
    )
    stored, own = reading.stored, rebuilt[0].numpy()[structure.c :]
    off = np.abs(np.where(np.isnan(stored), 0, own - stored))
    largest = np.nanmax(np.abs(stored), initial=_least(trained))
    if len(off) and not off.max() <= EXACT * largest:
        at = int(off.argmax())
        return (
            f"the trees of this {library} model do not follow from the data: {structure.name_of(structure.c + at)} has "
            f"the value {stored[at]:.6g}, and {own[at]:.6g} when it is computed from the rows in it "
            f"({off[at] / largest:.1e} of the largest). {advice}"
        )
    model, scores = reading.margins(rows.X), rebuilt[1].numpy()
    apart, largest = np.abs(model - scores), max(np.abs(model).max(), 1e-300)
    if not apart.max() <= EXACT * largest:
        row = int(apart.max(1).argmax())
        return (
            f"the scores of this {library} model do not follow from its trees: row {row} has {model[row].tolist()}, "
            f"and {scores[row].tolist()} when they are added up. {advice}"
        )
    return ""


def _least(trained: Trained) -> float:
    """What leaf values are compared with at least: where no tree splits, all of them are rounding.

    Then it is the step of a row alone, from the start, on the mean.
    """
    if any(tree.size > 1 for one in trained.structure.rounds for tree in one.trees):
        return 1e-300
    slopes = trained.slopes_at(trained.start_scores().repeat(trained.n, 1), slice(None))
    return float((trained.w @ slopes.r.abs()).max() / (trained.w @ slopes.h).max())


def own_objective(model: Any, rows: Rows, c: int, loss: LinearLoss) -> BoostedOwn | None:
    """The objective that a wrapper of a library was given as a function; None where it is a name.

    Args:
        model: the wrapper, whose function takes targets and scores, and perhaps weights.
        rows: of training.
        c: the number of outputs.
        loss: what is asked about in its place.

    Raises:
        ValueError: for several outputs, and for a function whose numbers of a row depend on other rows.
    """
    function = getattr(model, "objective", None)
    if not callable(function):
        return None
    if c > 1:
        raise refused(model, f"an objective of your own of {c} outputs")
    takes = len(inspect.signature(function).parameters)
    if takes not in (2, 3):
        raise refused(model, f"an objective of your own of {takes} arguments")

    def each(y: np.ndarray, scores: np.ndarray) -> tuple[Any, Any]:
        return function(y, scores) if takes == 2 else function(y, scores, np.ones_like(y))

    y = np.asarray(rows.codes, np.float64)
    scores = np.linspace(-1, 1, len(y))
    whole, half = each(y, scores), each(y[: len(y) // 2], scores[: len(y) // 2])
    if not all(
        np.allclose(np.ravel(a)[: len(y) // 2], np.ravel(b)) for a, b in zip(whole, half, strict=True)
    ):
        raise refused(model, "an objective of your own in which a row's numbers depend on other rows")
    return BoostedOwn(each, loss, takes == 3)


def held_weights(how: Any) -> tuple[str, ...]:
    """The note about class weights that follow the counts of the classes, and do not in removals of rows of trees.

    `how` is the setting: "balanced" or True; of others there is nothing to say.
    """
    if how is not True and how != "balanced":
        return ()
    return ("the class weights that follow the counts of the classes are held fixed",)


def against_the_rest(loss: BoostedLoss, c: int) -> tuple[str, ...]:
    """The note about probabilities where each of c classes has trees of its own, one against the rest."""
    if c == 1 or not (loss.loss.likelihood and loss.loss.separate_outputs):
        return ()
    return (
        "each class is told from the rest by trees of its own: probabilities are the sigmoids of its scores over their "
        "sum, which the library's own are not divided by",
    )


def refused(model: Any, reason: str) -> ValueError:
    """The error for a setting that leaves the fit undetermined, with what to do instead.

    Args:
        model: the model.
        reason: which setting, and why.
    """
    return ValueError(
        f"{type(model).__name__} with {reason}; ask by retraining, uw.by_refitting(estimator, X, y), or fit without it"
    )
