"""Boosting and forests of scikit-learn, read from the fitted estimators."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from ..trees.losses import (
    BoostedLogistic,
    BoostedLoss,
    BoostedShares,
    BoostedSoftmax,
    BoostedSquared,
    BoostedTweedie,
    Quantiles,
)
from ..trees.quantiles import BoostedQuantile, FirstToReach, Interpolated, Pinball
from ..trees.start import Fixed, FromMean, Start
from ..trees.structure import Round
from ..types import Tensor
from .tree_models import Rows, TreeReading, held_weights, numbered_leaves, refused, tree
from .tree_paths import above, paths

MOSTLY = 0.5
"""The share of pure leaves from which on it is said of a forest."""


def gradient_boosting(model: Any, rows: Rows) -> TreeReading:
    """GradientBoostingClassifier and -Regressor: leaves are sum w r / sum w h, by the rows of each tree's bag."""
    n, (rounds, c) = len(rows.codes), model.estimators_.shape
    loss, start = _gradient_boosting_loss(model, c, rows.weight)
    trees = [one.tree_ for one in model.estimators_.flat]
    leaves = [np.flatnonzero(one.children_left < 0) for one in trees]
    stored = np.concatenate(
        [one.value[own, 0, 0] for one, own in zip(trees, leaves, strict=True)] or [np.empty(0)]
    )

    def apply(X: Any) -> Tensor:
        plain = (
            X.to_numpy() if hasattr(X, "columns") else X
        )  # its trees were fitted without names, and would say so
        return numbered_leaves(model.apply(plain).reshape(_count(X), -1).astype(np.int64), leaves)

    held_out = None
    if model.n_iter_no_change is not None:
        held_out = _held_out(model, n, model.validation_fraction, rows.codes, model.random_state)
    bags = None
    if model.subsample < 1:
        bags = _bags(model, n, rounds, c, held_out)
    found = tuple(
        Round(
            tuple(
                tree(t * c + k, k, len(leaves[t * c + k]), bag=None if bags is None else t) for k in range(c)
            ),
            model.learning_rate,
        )
        for t in range(rounds)
    )

    def margins(X: Any) -> np.ndarray:
        own = model.decision_function(X) if loss.loss.classifies else model.predict(X)
        return np.asarray(own).reshape(_count(X), c)

    return TreeReading(
        loss,
        start,
        found,
        c,
        apply,
        stored,
        margins,
        bags=bags,
        held_out=held_out,
        notes=_stopped(held_out),
        paths=paths(above(one.children_left, one.children_right, one.feature) for one in trees),
    )


def _gradient_boosting_loss(model: Any, c: int, weight: np.ndarray | None) -> tuple[BoostedLoss, Start]:
    if model.init is not None and model.init != "zero":
        raise refused(model, "init= an estimator of its own starts every row elsewhere")
    zero = Fixed((0.0,) * c) if model.init == "zero" else None
    if model.loss == "log_loss":
        if c == 1:
            return BoostedLogistic(), zero or FromMean("logit")
        return BoostedSoftmax(c / (c - 1)), zero or FromMean("log", centred=True)
    if model.loss == "squared_error":
        return BoostedSquared(), zero or FromMean()
    if model.loss in ("absolute_error", "quantile"):
        level = model.alpha if model.loss == "quantile" else 0.5
        begins = Interpolated(level) if weight is None else FirstToReach(level)
        return _quantile(model, level, Quantiles(begins, FirstToReach(level))), zero or FromMean()
    raise refused(model, f"loss={model.loss!r}, whose leaves are not read")


def _quantile(model: Any, level: float, quantiles: Quantiles) -> BoostedLoss:
    """The absolute error or a quantile's loss.

    Args:
        model: whose `loss` tells.
        level: of the quantile.
        quantiles: how it is taken.
    """
    return BoostedQuantile(Pinball(level, 2.0 if model.loss == "absolute_error" else 1.0), quantiles)


def hist_gradient_boosting(model: Any, rows: Rows) -> TreeReading:
    """HistGradientBoostingClassifier and -Regressor: leaves are sum w r / (sum w h + l2), with slopes in float32."""
    c, rounds = model.n_trees_per_iteration_, len(model._predictors)
    loss, start = _hist_loss(model, c, rows.weight)
    cst = getattr(model, "monotonic_cst", None)
    if cst is not None and np.any(np.asarray(list(cst.values()) if isinstance(cst, dict) else cst) != 0):
        raise refused(model, "monotonic_cst clips a leaf by its neighbours")
    leaves, values = [], []
    for one in model._predictors:
        for predictor in one:
            own = np.flatnonzero(predictor.nodes["is_leaf"])
            leaves.append(own)
            values.append(predictor.nodes["value"][own] / model.learning_rate)
    numbered = copy.deepcopy(model)
    numbered._baseline_prediction = np.zeros_like(np.asarray(model._baseline_prediction, dtype=np.float64))
    for one in numbered._predictors:
        for predictor in one:
            predictor.nodes["value"] = np.arange(len(predictor.nodes))

    def apply(X: Any) -> Tensor:
        before, found = 0.0, []
        for scores in numbered._staged_raw_predict(X):
            found.append(np.rint(scores - before))
            before = scores.copy()
        nodes = np.concatenate(found, axis=1) if found else np.empty((_count(X), 0))
        return numbered_leaves(nodes.astype(np.int64), leaves)

    columns = np.arange(model.n_features_in_)
    if model._preprocessor is not None:  # it puts columns of categories in front of the others
        columns = np.argsort(~np.asarray(model.is_categorical_), kind="stable")
    held_out = None
    if leaves and model._predictors[0][0].nodes[0]["count"] < len(rows.codes):
        held_out = _held_out(
            model, len(rows.codes), model.validation_fraction, rows.codes, _drawn_seed(model)
        )
    found = tuple(
        Round(
            tuple(tree(t * c + k, k, len(leaves[t * c + k]), model.l2_regularization) for k in range(c)),
            model.learning_rate,
        )
        for t in range(rounds)
    )
    return TreeReading(
        loss,
        start,
        found,
        c,
        apply,
        np.concatenate(values) if values else np.empty(0),
        lambda X: model._raw_predict(X).astype(np.float64),
        class_weights=_class_weights(model, rows),
        held_out=held_out,
        paths=paths(
            above(one.nodes["left"], one.nodes["right"], columns[one.nodes["feature_idx"]])
            for several in model._predictors
            for one in several
        ),
        notes=(*_stopped(held_out), *held_weights(getattr(model, "class_weight", None))),
    )


def _hist_loss(model: Any, c: int, weight: np.ndarray | None) -> tuple[BoostedLoss, Start]:
    if model.loss == "log_loss":
        return (
            (BoostedLogistic(), FromMean("logit"))
            if c == 1
            else (BoostedSoftmax(), FromMean("log", centred=True))
        )
    if model.loss == "squared_error":
        return BoostedSquared(), FromMean()
    if model.loss in ("poisson", "gamma"):
        return BoostedTweedie(1.0 if model.loss == "poisson" else 2.0), FromMean("log")
    if model.loss in ("absolute_error", "quantile"):
        level = model.quantile if model.loss == "quantile" else 0.5
        rule = Interpolated(level) if weight is None else FirstToReach(level)
        return _quantile(model, level, Quantiles(rule, rule)), FromMean()
    raise refused(model, f"loss={model.loss!r}, whose leaves are not read")


def forest(model: Any, rows: Rows) -> TreeReading:
    """Random forests and extra trees: the mean over trees of the mean target in a leaf, each row as often as drawn.

    A decision tree is a forest of one tree, which drew nothing.
    """
    trees = [one.tree_ for one in getattr(model, "estimators_", (model,))]
    bootstrap = getattr(model, "bootstrap", False)
    if model.n_outputs_ > 1:
        raise refused(model, "several targets at once")
    if getattr(model, "monotonic_cst", None) is not None:
        raise refused(model, "monotonic_cst clips a leaf by its neighbours")
    if model.criterion not in ("gini", "entropy", "log_loss", "squared_error", "friedman_mse"):
        raise refused(model, f"criterion={model.criterion!r} has leaves that are no means")
    leaves = [np.flatnonzero(one.children_left < 0) for one in trees]
    classes = len(model.classes_) if hasattr(model, "classes_") else 0
    c = classes or 1
    counts = None
    if bootstrap:
        counts = torch.from_numpy(_counts(model, rows.codes))
    found = Round(
        tuple(
            tree(t, k, len(own), bag=t if bootstrap else None)
            for t, own in enumerate(leaves)
            for k in range(c)
        ),
        1 / len(trees),
    )
    stored = np.concatenate(
        [one.value[own, 0, k] for one, own in zip(trees, leaves, strict=True) for k in range(c)]
    )

    def margins(X: Any) -> np.ndarray:
        return model.predict_proba(X) if classes else np.asarray(model.predict(X))[:, None]

    return TreeReading(
        BoostedShares() if classes else BoostedSquared(),
        Fixed((0.0,) * c),
        (found,),
        c,
        lambda X: numbered_leaves(model.apply(X).reshape(_count(X), -1).astype(np.int64), leaves),
        stored,
        margins,
        bags=counts,
        class_weights=None if bootstrap else _class_weights(model, rows),
        paths=paths(above(one.children_left, one.children_right, one.feature) for one in trees),
        notes=(*_drawn(model, rows), *_pure(trees, leaves)),
        weightless=bootstrap,
    )


def _drawn(model: Any, rows: Rows) -> tuple[str, ...]:
    """What is held fixed of what each tree of a forest drew, and of the weights of classes."""
    how = getattr(model, "class_weight", None)
    if not getattr(model, "bootstrap", False):
        return held_weights("balanced" if how == "balanced_subsample" else how)
    said = "the rows that each tree drew are held fixed"
    if how == "balanced_subsample":
        said += ", and the weights that each tree gave the classes by their counts among these"
    elif rows.weight is not None or how is not None:
        said += "; weights set the odds of the draw alone"
    return (said,)


def _counts(model: Any, codes: np.ndarray) -> np.ndarray:
    """How often each tree (t, n) drew each row, times the weight that it gave the row's class."""
    drawn = np.stack([np.bincount(own, minlength=len(codes)) for own in model.estimators_samples_])
    if getattr(model, "class_weight", None) != "balanced_subsample":
        return drawn.astype(np.uint8)
    from sklearn.utils.class_weight import compute_sample_weight

    weights = [compute_sample_weight("balanced", codes, indices=own) for own in model.estimators_samples_]
    return drawn * np.stack(weights)


def _pure(trees: list[Any], leaves: list[np.ndarray]) -> tuple[str, ...]:
    """What is said of a forest most of whose leaves have rows of one label alone."""
    share = float(
        np.mean(np.concatenate([one.impurity[own] <= 0 for one, own in zip(trees, leaves, strict=True)]))
    )
    if share < MOSTLY:
        return ()
    return (
        f"{share:.0%} of its leaves have rows of one label alone: what such rows weigh moves nothing while the splits "
        "are held fixed, though another label would; fit with min_samples_leaf, or ask by retraining "
        "(uw.by_refitting)",
    )


def _class_weights(model: Any, rows: Rows) -> np.ndarray | None:
    """What the labels put into the weights, for each class, or None."""
    if (how := getattr(model, "class_weight", None)) is None:
        return None
    from sklearn.utils.class_weight import compute_class_weight

    names = np.asarray(model.classes_)
    return compute_class_weight(
        "balanced" if how == "balanced_subsample" else how, classes=names, y=names[rows.codes]
    )


# -- what was drawn --------------------------------------------------------------------------------------------------


def _count(X: Any) -> int:
    return X.shape[0] if hasattr(X, "shape") else len(X)


def _stopped(held_out: np.ndarray | None) -> tuple[str, ...]:
    if held_out is None:
        return ()
    return (
        f"{len(held_out)} rows were held out to stop early: they trained nothing, and when to stop is held fixed",
    )


def _held_out(model: Any, n: int, share: Any, codes: np.ndarray, seed: Any) -> np.ndarray:
    """The rows that early stopping kept for validation, drawn again from an integer seed."""
    from sklearn.model_selection import train_test_split

    if not isinstance(model.random_state, (int, np.integer)):
        raise refused(
            model, "early stopping and random_state that is no number: the rows held out are not recorded"
        )
    stratify = codes if hasattr(model, "classes_") else None
    _, held = train_test_split(np.arange(n), test_size=share, stratify=stratify, random_state=seed)
    return np.sort(held)


def _drawn_seed(model: Any) -> int:
    from sklearn.utils import check_random_state

    return int(check_random_state(model.random_state).randint(np.iinfo(np.uint32).max, dtype="u8"))


def _bags(model: Any, n: int, rounds: int, c: int, held_out: np.ndarray | None) -> Tensor:
    """The bags of stochastic gradient boosting, drawn again from an integer seed."""
    if not isinstance(model.random_state, (int, np.integer)):
        raise refused(
            model, "subsample below 1 and random_state that is no number: the bags are not recorded"
        )
    if held_out is not None:
        raise refused(model, "subsample below 1 beside early stopping: which bags were drawn is not rebuilt")
    state, inside = np.random.RandomState(model.random_state), int(model.subsample * n)
    found = np.zeros((rounds, n), np.uint8)
    for t in range(rounds):
        u, taken = state.uniform(size=n), 0
        for i in range(n):
            if u[i] * (n - i) < inside - taken:
                found[t, i], taken = 1, taken + 1
        for _ in range(c):
            state.randint(np.iinfo(np.int32).max)
    return torch.from_numpy(found)
