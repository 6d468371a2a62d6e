"""Boosted trees of LightGBM, read from the text of the model, which has every setting."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..losses import Logistic, Squared
from ..trees.losses import (
    BoostedLogistic,
    BoostedLoss,
    BoostedSoftmax,
    BoostedSquared,
    BoostedTweedie,
    Quantiles,
)
from ..trees.quantiles import BoostedQuantile, ByUpperWeight, Interpolated, Pinball
from ..trees.start import Fixed, FromMean, Start
from ..trees.structure import Round
from ..types import Tensor
from .tree_models import (
    Rows,
    TreeReading,
    against_the_rest,
    encoded_rows,
    held_weights,
    numbered_leaves,
    own_objective,
    refused,
    tree,
)
from .tree_paths import paths

BLOCK = 1024
"""Rows that share a stream of random numbers in LightGBM's bagging."""


def lightgbm(model: Any, rows: Rows) -> TreeReading:
    """LGBMClassifier, LGBMRegressor and Booster: V = soft(G, lambda_l1) / (H + lambda_l2), clipped, in bags.

    The start value stands in the leaves of the first tree of each class. Below a split of many categories against many
    cat_l2 comes to the denominator.
    """
    booster = getattr(model, "booster_", model)
    dump, text = booster.dump_model(), booster.model_to_string()
    settings = dict(re.findall(r"^\[(\w+): (.*)\]$", text, re.M))
    _check(model, dump, settings)
    c, trees = dump["num_class"], dump["tree_info"]
    rate, l1, l2 = (float(settings[key]) for key in ("learning_rate", "lambda_l1", "lambda_l2"))
    limit = float(settings.get("max_delta_step", 0)) or None
    loss, class_weights, sees = _loss(model, dump, settings, rows, c)
    start = _start(dump, settings, c)
    categories = {name: len(info.get("values", ())) for name, info in dump["feature_infos"].items()}
    names, most = dump["feature_names"], int(settings.get("max_cat_to_onehot", 4))

    def many(node: dict[str, Any]) -> bool:
        return node["decision_type"] == "==" and categories.get(names[node["split_feature"]], 0) > most

    rounds, bags = len(trees) // c, None
    fraction, every = float(settings["bagging_fraction"]), int(settings["bagging_freq"])
    if fraction < 1 and every > 0:
        bags = np.stack(list(_bags(len(rows.codes), fraction, int(settings["bagging_seed"]), every, rounds)))
    begin = start.value(_mean(loss, rows, class_weights if sees else None, c)).numpy()
    stored, found, sizes = [], [], []
    for t in range(rounds):
        own = []
        for k in range(c):
            at = t * c + k
            leaves = sorted(_leaves(trees[at]["tree_structure"], many))
            values = np.array([value for _, value, _ in leaves])
            sizes.append(np.arange(len(leaves)))
            if len(leaves) == 1:  # nothing was split: the tree adds what it says, whatever the rows
                stored.append(np.zeros(1))
                own.append(tree(at, k, 1, np.inf))
                continue
            stored.append((values - (begin[k] if t == 0 else 0)) / rate)
            damping = np.array([l2 + float(settings["cat_l2"]) * below for *_, below in leaves])
            own.append(tree(at, k, len(leaves), damping, l1=l1, limit=limit, bag=None if bags is None else t))
        found.append(Round(tuple(own), rate))

    def apply(X: Any) -> Tensor:
        leaf = booster.predict(X, pred_leaf=True)
        return numbered_leaves(np.asarray(leaf).reshape(len(leaf), -1).astype(np.int64), sizes)

    def margins(X: Any) -> np.ndarray:
        return np.asarray(booster.predict(X, raw_score=True)).reshape(-1, c)

    return TreeReading(
        loss,
        start,
        tuple(found),
        c,
        apply,
        np.concatenate(stored),
        margins,
        bags=None if bags is None else torch.from_numpy(bags),
        class_weights=class_weights,
        start_sees_them=sees,
        paths=paths(_ways(one["tree_structure"]) for one in trees),
        single=True,
        weightless=not loss.weighs,
        notes=(*_weights_held(model, settings), *against_the_rest(loss, c), *loss.notes),
    )


def _check(model: Any, dump: dict[str, Any], settings: dict[str, str]) -> None:
    """Refuse what leaves the fit undetermined."""
    kind = settings.get("boosting", "gbdt")
    if kind != "gbdt":
        raise refused(model, f"boosting={kind!r}, whose trees change after they were fitted")
    if settings.get("data_sample_strategy", "bagging") == "goss":
        raise refused(model, "GOSS: which rows were drawn is not recorded")
    if (
        float(settings.get("pos_bagging_fraction", 1)) < 1
        or float(settings.get("neg_bagging_fraction", 1)) < 1
    ):
        raise refused(model, "bags by class, which are not rebuilt")
    if settings.get("linear_tree", "0") not in ("0", "false"):
        raise refused(model, "linear_tree, whose leaves are no numbers")
    if settings.get("use_quantized_grad", "0") not in ("0", "false"):
        raise refused(model, "use_quantized_grad, which rounds by chance")
    if float(settings.get("path_smooth", 0)) > 0:
        raise refused(model, "path_smooth, which ties a leaf to those above it")
    if "1" in settings.get("monotone_constraints", ""):
        raise refused(model, "monotone_constraints, which clip a leaf by its neighbours")
    if getattr(model, "class_weight", None) is not None and (
        _unbalanced(settings) or float(settings.get("scale_pos_weight", 1)) != 1
    ):
        raise refused(
            model, "class_weight beside is_unbalance or scale_pos_weight, which both weigh the classes"
        )
    if "sqrt" in dump.get("objective", ""):
        raise refused(model, "reg_sqrt, whose trees fit roots of the targets: take these yourself")
    if float(settings.get("sigmoid", 1)) != 1:
        raise refused(model, f"sigmoid={settings['sigmoid']}")


def _loss(
    model: Any, dump: dict[str, Any], settings: dict[str, str], rows: Rows, c: int
) -> tuple[BoostedLoss, np.ndarray | None, bool]:
    """What is boosted, the weights of classes, and whether the start sees these."""
    name = dump.get("objective", "custom").split()[0]
    own = own_objective(model, rows, c, Logistic() if hasattr(model, "classes_") else Squared())
    if own is not None:
        return own, None, True
    if (by_class := getattr(model, "class_weight", None)) is not None:
        from sklearn.utils.class_weight import compute_class_weight

        names = np.asarray(model.classes_)
        given = compute_class_weight(by_class, classes=names, y=names[rows.codes])
        return (BoostedSoftmax(c / (c - 1)) if name == "multiclass" else BoostedLogistic()), given, True
    if name == "binary":
        positive = float(settings.get("scale_pos_weight", 1))
        if _unbalanced(settings):
            counts = np.bincount(rows.codes.astype(int), minlength=2)
            return BoostedLogistic(), counts.max() / counts, False
        return BoostedLogistic(), None if positive == 1 else np.array([1.0, positive]), False
    if name == "multiclassova":
        if _unbalanced(settings) or float(settings.get("scale_pos_weight", 1)) != 1:
            raise refused(model, "is_unbalance or scale_pos_weight and several classes: give sample_weight")
        return BoostedLogistic(), None, True
    if name == "multiclass":
        return BoostedSoftmax(c / (c - 1)), None, True
    if name == "regression":
        return BoostedSquared(), None, True
    if name in ("regression_l1", "quantile"):
        return _quantile(name, float(settings["alpha"]), rows.weight), None, True
    if name == "poisson":
        return BoostedTweedie(1.0, float(np.exp(float(settings["poisson_max_delta_step"])))), None, True
    if name == "gamma":
        return BoostedTweedie(2.0), None, True
    if name == "tweedie":
        return BoostedTweedie(float(settings["tweedie_variance_power"])), None, True
    raise refused(model, f"objective {name!r}, whose leaves are not read")


def _quantile(name: str, alpha: float, weight: np.ndarray | None) -> BoostedLoss:
    """The absolute error or a quantile's loss, by weights that are not all 1."""
    level = float(np.float32(alpha)) if name == "quantile" else 0.5
    rule = Interpolated if weight is None or (np.asarray(weight) == 1).all() else ByUpperWeight
    loss = Pinball(level) if name == "quantile" else Pinball(0.5, 2.0)
    return BoostedQuantile(loss, Quantiles(rule(level, single=True), rule(level)))


def _weights_held(model: Any, settings: dict[str, str]) -> tuple[str, ...]:
    return held_weights(getattr(model, "class_weight", None) or _unbalanced(settings))


def _unbalanced(settings: dict[str, str]) -> bool:
    return settings.get("is_unbalance", "0") not in ("0", "false")


def _start(dump: dict[str, Any], settings: dict[str, str], c: int) -> Start:
    if "objective" not in dump or settings.get("boost_from_average", "1") in ("0", "false"):
        return Fixed((0.0,) * c)
    logs = ("poisson", "gamma", "tweedie", "multiclass")
    links = {"binary": "logit", "multiclassova": "logit", **dict.fromkeys(logs, "log")}
    return FromMean(links.get(dump["objective"].split()[0], "identity"))


def _mean(loss: BoostedLoss, rows: Rows, class_weights: np.ndarray | None, c: int) -> Tensor:
    """The weighted mean that the start is computed from."""
    targets, weights, _ = encoded_rows(rows, loss, c, class_weights)
    return loss.middle(loss.numbers(targets, c), weights)


def _leaves(node: dict[str, Any], many: Any, below: bool = False) -> Iterator[tuple[int, float, bool]]:
    """The leaves under a node: number, value, and whether the split just above is of many categories against many."""
    stack = [(node, below)]
    while stack:
        node, below = stack.pop()
        if "leaf_value" in node:
            yield node.get("leaf_index", 0), node["leaf_value"], below
            continue
        stack += [(node[side], many(node)) for side in ("left_child", "right_child")]


def _ways(node: dict[str, Any]) -> list[list[int]]:
    """The columns on the path to each leaf under a node, leaves by their numbers."""
    ways: dict[int, list[int]] = {}
    stack: list[tuple[dict[str, Any], list[int]]] = [(node, [])]
    while stack:
        node, way = stack.pop()
        if "leaf_value" in node:
            ways[node.get("leaf_index", 0)] = way
            continue
        stack += [(node[side], [*way, node["split_feature"]]) for side in ("left_child", "right_child")]
    return [ways[leaf] for leaf in sorted(ways)]


def _bags(n: int, fraction: float, seed: int, every: int, rounds: int) -> Iterator[np.ndarray]:
    """The bags (n,) of each round, by LightGBM's linear congruential generator: a stream for each block of rows."""
    multiply, add, modulus = np.uint64(214013), np.uint64(2531011), np.uint64(2**32 - 1)
    a, b = [np.uint64(1)], [np.uint64(0)]
    for _ in range(BLOCK):
        a.append(a[-1] * multiply & modulus)
        b.append((b[-1] * multiply + add) & modulus)
    power, shift = np.array(a), np.array(b)
    blocks = -(-n // BLOCK)
    state = (np.uint64(seed) + np.arange(blocks, dtype=np.uint64)) & modulus
    lengths = np.full(blocks, BLOCK)
    lengths[-1] = n - BLOCK * (blocks - 1)
    bag = np.zeros(n, np.uint8)
    for t in range(rounds):
        if t % every == 0:
            drawn = (power[None, 1:] * state[:, None] + shift[None, 1:]) & modulus
            share = (drawn >> np.uint64(16) & np.uint64(32767)).astype(np.float64) / 32768
            bag = (share.astype(np.float32).reshape(-1)[:n] < np.float32(fraction)).astype(np.uint8)
            state = (power[lengths] * state + shift[lengths]) & modulus
        yield bag
