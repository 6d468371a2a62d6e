"""Boosted trees of XGBoost, read from the model that it saves and the settings that it still knows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..trees.losses import BoostedLogistic, BoostedLoss, BoostedSoftmax, BoostedSquared, BoostedTweedie
from ..trees.start import Fixed, FromMean, Start
from ..trees.structure import Round
from ..types import Tensor
from .tree_models import Rows, TreeReading, numbered_leaves, refused, tree


def xgboost(model: Any, rows: Rows) -> TreeReading:
    """XGBClassifier, XGBRegressor and Booster: V = soft(G, alpha) / (H + lambda), clipped, with eta outside.

    A model from a file has lost eta, lambda, alpha and max_delta_step: the first two follow from its first tree.
    """
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(booster.save_raw("json"))["learner"]
    config = json.loads(booster.save_config())["learner"]
    _check(model, learner, config)
    saved = learner["gradient_booster"]["model"]
    ends = saved["iteration_indptr"]
    last = _last_round(model, booster, len(ends) - 1)
    trees, outputs = saved["trees"][: ends[last]], saved["tree_info"][: ends[last]]
    leaves = [np.flatnonzero(np.asarray(one["left_children"]) < 0) for one in trees]
    values = [
        np.asarray(one["split_conditions"], dtype=np.float64)[own]
        for one, own in zip(trees, leaves, strict=True)
    ]

    def predicted(X: Any, **how: Any) -> np.ndarray:
        return booster.predict(_matrix(booster, model, X), iteration_range=(0, last), **how)

    def apply(X: Any) -> Tensor:
        nodes = predicted(X, pred_leaf=True)
        return numbered_leaves(nodes.reshape(len(nodes), -1).astype(np.int64), leaves)

    c = max(1, int(learner["learner_model_param"]["num_class"]))
    loss, limit = _loss(model, learner, c)
    given = config["gradient_booster"]["tree_train_param"]
    eta, lambda_, alpha, own_limit = (
        float(given[key]) for key in ("eta", "lambda", "alpha", "max_delta_step")
    )
    class_weights = _class_weights(learner)
    start, own_start = _start(model, learner, c, class_weights)
    first = (
        _first_tree(loss, own_start, rows, apply(rows.X)[0].numpy(), values[0], class_weights)
        if trees
        else None
    )
    notes: tuple[str, ...] = ()
    if first is not None and not np.allclose(
        _value(first, eta, lambda_, alpha, own_limit or limit),
        values[0],
        rtol=1e-4,
        atol=1e-6 * np.abs(values[0]).max(),
    ):
        eta, lambda_ = _strengths(first, values[0])
        alpha = own_limit = 0.0
        notes = (
            f"eta = {eta:.6g} and lambda = {lambda_:.6g} follow from its first tree: a saved model has lost them",
        )
    clip = own_limit or limit or None
    found = tuple(
        Round(
            tuple(
                tree(t, outputs[t], len(leaves[t]), lambda_, l1=alpha, limit=clip)
                for t in range(ends[r], ends[r + 1])
            ),
            eta * c / (ends[r + 1] - ends[r]),
        )
        for r in range(last)
    )
    rates = [one.rate for one in found for _ in one.trees]
    return TreeReading(
        loss,
        start,
        found,
        c,
        apply,
        np.concatenate([own / rate for own, rate in zip(values, rates, strict=True)] or [np.empty(0)]),
        lambda X: predicted(X, output_margin=True).reshape(-1, c).astype(np.float64),
        class_weights=class_weights,
        single=True,
        single_start=Fixed(tuple(own_start.tolist())),
        notes=notes,
    )


def _matrix(booster: Any, model: Any, X: Any) -> Any:
    import xgboost

    missing = getattr(model, "missing", None)
    names = None if hasattr(X, "columns") else booster.feature_names
    return xgboost.DMatrix(
        X, missing=np.nan if missing is None else missing, feature_names=names, enable_categorical=True
    )


def _last_round(model: Any, booster: Any, rounds: int) -> int:
    """How many rounds predict: those up to the best one, where a wrapper stopped early; of a Booster all."""
    if model is booster:
        return rounds
    best = booster.attr("best_iteration")
    return rounds if best is None else min(rounds, int(best) + 1)


def _check(model: Any, learner: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse what leaves the fit undetermined."""
    kind = learner["gradient_booster"]["name"]
    if kind != "gbtree":
        raise refused(model, f"booster={kind!r}, whose trees change after they were fitted")
    given = config["gradient_booster"]["tree_train_param"]
    if float(given["subsample"]) < 1 or given.get("sampling_method", "uniform") != "uniform":
        raise refused(
            model, f"subsample={float(given['subsample']):g}: which rows were drawn is not recorded"
        )
    if given.get("monotone_constraints", "()") not in ("()", "[]", ""):
        raise refused(model, "monotone_constraints, which clip a leaf by its neighbours")
    shape = learner["learner_model_param"]
    if int(shape.get("num_target", "1")) > 1:
        raise refused(model, "several targets at once; fit one model for each")


def _loss(model: Any, learner: dict[str, Any], c: int) -> tuple[BoostedLoss, float]:
    """What is boosted, and what leaf values are clipped at by the objective itself (0: not)."""
    name = learner["objective"]["name"]
    if name in ("binary:logistic", "binary:logitraw", "reg:logistic"):
        return BoostedLogistic(), 0.0
    if name in ("multi:softprob", "multi:softmax"):
        return BoostedSoftmax(2.0), 0.0
    if name == "reg:squarederror":
        return BoostedSquared(), 0.0
    if name == "count:poisson":
        step = float(learner["objective"]["poisson_regression_param"]["max_delta_step"])
        return BoostedTweedie(1.0, float(np.exp(step))), step
    raise refused(model, f"objective {name!r}, whose leaves are not read")


def _class_weights(learner: dict[str, Any]) -> np.ndarray | None:
    positive = learner["objective"].get("reg_loss_param", {}).get("scale_pos_weight", "1")
    return None if float(positive) == 1 else np.array([1.0, float(positive)])


def _start(
    model: Any, learner: dict[str, Any], c: int, class_weights: np.ndarray | None
) -> tuple[Start, np.ndarray]:
    """Where the scores begin: as a function of the data, or as given; and as it is (c,)."""
    stored = np.atleast_1d(np.asarray(json.loads(learner["learner_model_param"]["base_score"]), dtype=float))
    name = learner["objective"]["name"]
    link = "identity"
    if name in ("binary:logistic", "binary:logitraw", "reg:logistic"):
        link, scores = "logit", np.log(stored / (1 - stored))
    elif name == "count:poisson":
        link, scores = "log", np.log(stored)
    elif name.startswith("multi"):
        link, scores = "log", np.broadcast_to(stored, (c,))
    else:
        scores = stored
    if getattr(model, "base_score", None) is not None:
        return Fixed(tuple(scores.tolist())), scores
    if class_weights is not None:
        link = "step"
    return FromMean(link, centred=name.startswith("multi")), scores


FirstTree = tuple[np.ndarray, np.ndarray]
"""The sums of w r and w h in the leaves of the first tree."""


def _first_tree(
    loss: BoostedLoss,
    start: np.ndarray,
    rows: Rows,
    leaf: np.ndarray,
    values: np.ndarray,
    class_weights: np.ndarray | None,
) -> FirstTree:
    import torch

    n, c = len(rows.codes), len(start)
    y = rows.codes if loss.loss.classifies else rows.codes.astype(np.float32).astype(float)
    targets = loss.loss.encode(torch.from_numpy(np.ascontiguousarray(y)), c)
    slopes = loss.slopes(torch.from_numpy(np.broadcast_to(start, (n, c)).copy()), targets)
    w = np.ones(n) if rows.weight is None else np.asarray(rows.weight, np.float32).astype(float)
    if class_weights is not None:
        w = w * class_weights[rows.codes]
    sums = [np.bincount(leaf, w * part[:, 0].numpy(), len(values)) for part in (slopes.r, slopes.h)]
    return sums[0], sums[1]


def _value(first: FirstTree, eta: float, lambda_: float, alpha: float, limit: float) -> np.ndarray:
    G, H = first
    found = np.sign(G) * np.maximum(np.abs(G) - alpha, 0) / np.maximum(H + lambda_, 1e-300)
    return eta * (np.clip(found, -limit, limit) if limit else found)


def _strengths(first: FirstTree, values: np.ndarray) -> tuple[float, float]:
    """Eta and lambda of V (H + lambda) = eta G, by least squares over the leaves of the first tree."""
    G, H = first
    found, *_ = np.linalg.lstsq(np.stack([G, -values], axis=1), values * H, rcond=None)
    return float(found[0]), float(max(found[1], 0.0))
