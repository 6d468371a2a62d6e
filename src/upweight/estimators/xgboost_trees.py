"""Boosted trees of XGBoost, read from the model that it saves and the settings that it still knows."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

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
from ..trees.quantiles import BoostedQuantile, FirstToReach, Interpolated, Pinball, leaf_quantiles
from ..trees.start import Fixed, FromMean, Start
from ..trees.structure import Round
from ..types import Tensor
from .tree_models import Rows, TreeReading, encoded_rows, numbered_leaves, own_objective, refused, tree
from .tree_paths import above, paths

FirstTree = tuple[np.ndarray, np.ndarray]
"""The sums of w r and w h in the leaves of the first tree."""

LOGISTIC = ("binary:logistic", "reg:logistic")
"""Objectives whose base_score is a probability, and their scores its logit."""


def xgboost(model: Any, rows: Rows) -> TreeReading:
    """XGBClassifier, XGBRegressor and Booster: V = soft(G, alpha) / (H + lambda), clipped, with eta outside.

    A model from a file has lost eta, lambda, alpha and max_delta_step: the first two follow from its first tree.
    """
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    learner = json.loads(booster.save_raw("json"))["learner"]
    config = json.loads(booster.save_config())["learner"]
    _check(model, learner, config)
    saved = _saved(model, booster, learner)

    def predicted(X: Any, **how: Any) -> np.ndarray:
        return booster.predict(_matrix(booster, model, X), iteration_range=(0, len(saved.ends) - 1), **how)

    def apply(X: Any) -> Tensor:
        nodes = predicted(X, pred_leaf=True)
        return numbered_leaves(nodes.reshape(len(nodes), -1).astype(np.int64), saved.leaves)

    c = max(1, int(learner["learner_model_param"]["num_class"]))
    loss, limit = _loss(model, learner, c, rows)
    class_weights = _class_weights(learner)
    start, own_start = _start(model, learner, c, class_weights)
    settings, notes = _settings(config, limit, saved, c), tuple[str, ...]()
    if saved.values and loss.quantiles is not None:
        settings, notes = _rate_of_quantiles(
            settings, loss, own_start, rows, (apply(rows.X)[0], saved.values[0])
        )
    elif saved.values:
        first = _first_tree(loss, own_start, rows, apply(rows.X)[0].numpy(), saved.values[0], class_weights)
        settings, notes = _known(settings, limit, first, saved.values[0])
    return TreeReading(
        loss,
        start,
        _rounds(saved, settings),
        c,
        apply,
        np.concatenate(saved.values) / settings.eta if saved.values else np.empty(0),
        lambda X: predicted(X, output_margin=True).reshape(-1, c).astype(np.float64),
        class_weights=class_weights,
        single=True,
        own_start=Fixed(tuple(own_start.tolist())),
        single_scores=True,
        paths=saved.paths,
        notes=(*notes, *loss.notes),
    )


class Saved(NamedTuple):
    """The trees of a model: where rounds end (r + 1,), the output of each tree, the nodes that are leaves, values.

    `paths` are the columns on the path to each leaf.
    """

    ends: list[int]
    outputs: list[int]
    leaves: list[np.ndarray]
    values: list[np.ndarray]
    paths: Any


def _saved(model: Any, booster: Any, learner: dict[str, Any]) -> Saved:
    """The trees that predict, as they are saved: at a leaf the condition is its value."""
    saved = learner["gradient_booster"]["model"]
    ends = saved["iteration_indptr"]
    ends = ends[: _last_round(model, booster, len(ends) - 1) + 1]
    trees = saved["trees"][: ends[-1]]
    leaves = [np.flatnonzero(np.asarray(one["left_children"]) < 0) for one in trees]
    values = [
        np.asarray(one["split_conditions"], dtype=np.float64)[own]
        for one, own in zip(trees, leaves, strict=True)
    ]
    ways = paths(above(one["left_children"], one["right_children"], one["split_indices"]) for one in trees)
    return Saved(ends, saved["tree_info"], leaves, values, ways)


class Settings(NamedTuple):
    """What the leaf values are computed with; a limit of 0 clips nothing."""

    eta: float
    damping: float
    alpha: float
    limit: float


def _settings(config: dict[str, Any], limit: float, saved: Saved, c: int) -> Settings:
    """The settings that the model says it has; parallel trees share the learning rate.

    Args:
        config: of the model.
        limit: what the objective itself clips at.
        saved: the trees.
        c: the number of outputs.
    """
    given = config["gradient_booster"]["tree_train_param"]
    eta, damping, alpha, own = (float(given[key]) for key in ("eta", "lambda", "alpha", "max_delta_step"))
    parallel = saved.ends[1] // c if len(saved.ends) > 1 else 1
    return Settings(eta / parallel, damping, alpha, own or limit)


def _known(
    said: Settings, limit: float, first: FirstTree, values: np.ndarray
) -> tuple[Settings, tuple[str, ...]]:
    """The settings that the first tree was made with, and a note where they are not those that the model says.

    Args:
        said: by the model.
        limit: what the objective itself clips at.
        first: the sums in the leaves of the first tree.
        values: of these leaves.
    """
    fits = (
        said,
        _strengths(first, values, limit, pulled=False),
        _strengths(first, values, limit, pulled=True),
    )
    close = [
        np.allclose(_value(first, one), values, rtol=1e-4, atol=1e-6 * np.abs(values).max()) for one in fits
    ]
    if close[0] or not any(close):
        return said, ()
    found = fits[close.index(True)]
    alpha = f" and alpha = {found.alpha:.6g}" if found.alpha else ""
    known = f"eta = {found.eta:.6g}, lambda = {found.damping:.6g}{alpha}"
    return found, (f"{known} follow from its first tree: a saved model has lost them",)


def _rounds(saved: Saved, settings: Settings) -> tuple[Round, ...]:
    """The rounds of trees that were fitted at the same scores."""
    ends, how = saved.ends, {"l1": settings.alpha, "limit": settings.limit or None}
    return tuple(
        Round(
            tuple(
                tree(t, saved.outputs[t], len(saved.leaves[t]), settings.damping, **how)
                for t in range(begin, end)
            ),
            settings.eta,
        )
        for begin, end in itertools.pairwise(ends)
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
    if kind == "gblinear":
        raise refused(model, "booster='gblinear', which is a linear model and has no trees")
    if kind != "gbtree":
        raise refused(model, f"booster={kind!r}, whose trees change after they were fitted")
    given = config["gradient_booster"]["tree_train_param"]
    if float(given["subsample"]) < 1 or given.get("sampling_method", "uniform") != "uniform":
        raise refused(
            model, f"subsample={float(given['subsample']):g}: which rows were drawn is not recorded"
        )
    if "1" in given.get("monotone_constraints", ""):
        raise refused(model, "monotone_constraints, which clip a leaf by its neighbours")
    trees = learner["gradient_booster"]["model"]["trees"]
    if any(int(one["tree_param"]["size_leaf_vector"]) > 1 for one in trees):
        raise refused(model, "multi_strategy='multi_output_tree', whose leaves hold a vector")
    shape = learner["learner_model_param"]
    if int(shape.get("num_target", "1")) > 1:
        raise refused(model, "several targets at once; fit one model for each")


def _loss(model: Any, learner: dict[str, Any], c: int, rows: Rows) -> tuple[BoostedLoss, float]:
    """What is boosted, and what leaf values are clipped at by the objective itself (0: not)."""
    name = learner["objective"]["name"]
    own = own_objective(model, rows, c, Logistic() if name in LOGISTIC else Squared())
    if own is not None:
        return own, 0.0
    if name in LOGISTIC:
        return BoostedLogistic(), 0.0
    if name in ("multi:softprob", "multi:softmax"):
        return BoostedSoftmax(2.0), 0.0
    if name == "reg:squarederror":
        return BoostedSquared(), 0.0
    if name == "count:poisson":
        step = float(learner["objective"]["poisson_regression_param"]["max_delta_step"])
        return BoostedTweedie(1.0, float(np.exp(step))), step
    if name == "reg:gamma":
        return BoostedTweedie(2.0), 0.0
    if name == "reg:tweedie":
        power = learner["objective"]["tweedie_regression_param"]["tweedie_variance_power"]
        return BoostedTweedie(float(power)), 0.0
    if name in ("reg:absoluteerror", "reg:quantileerror"):
        return _quantile(learner["objective"], rows.weight), 0.0
    raise refused(model, f"objective {name!r}, whose leaves are not read")


def _quantile(objective: dict[str, Any], weight: np.ndarray | None) -> BoostedLoss:
    """The absolute error or a quantile's loss, as the objective is saved, with sample weights or None."""
    level, times = 0.5, 2.0
    if "quantile_loss_param" in objective:
        (given,), times = json.loads(objective["quantile_loss_param"]["quantile_alpha"]), 1.0
        level = float(np.float32(given))
    rule = Interpolated(level, method="weibull") if weight is None else FirstToReach(level)
    return BoostedQuantile(Pinball(level, times), Quantiles(rule, rule))


def _rate_of_quantiles(
    said: Settings, loss: BoostedLoss, start: np.ndarray, rows: Rows, first: tuple[Tensor, np.ndarray]
) -> tuple[Settings, tuple[str, ...]]:
    """The learning rate, by the first tree whose leaves are quantiles, and a note where the model says another.

    Args:
        said: the settings that the model says it has.
        loss: what is boosted.
        start: the first scores (1,).
        rows: of training.
        first: the leaves of the rows in the first tree (n,), and its values.
    """
    assert loss.quantiles is not None
    targets, w, _ = encoded_rows(rows, loss, 1)
    left = targets[:, 0] - float(start[0])
    own = leaf_quantiles(loss.quantiles.leaf, left, w, first[0], len(first[1]))[0].numpy()
    eta = float(own @ first[1] / (own @ own)) if own.any() else said.eta
    if abs(eta - said.eta) <= 1e-4 * said.eta:
        return said, ()
    return said._replace(eta=eta), (
        f"eta = {eta:.6g} follows from its first tree: a saved model has lost it",
    )


def _class_weights(learner: dict[str, Any]) -> np.ndarray | None:
    positive = learner["objective"].get("reg_loss_param", {}).get("scale_pos_weight", "1")
    return None if float(positive) == 1 else np.array([1.0, float(positive)])


def _start(
    model: Any, learner: dict[str, Any], c: int, class_weights: np.ndarray | None
) -> tuple[Start, np.ndarray]:
    """Where the scores begin: as a function of the data, or as given; and as it is (c,)."""
    digits = json.loads(
        learner["learner_model_param"]["base_score"]
    )  # just enough to tell one float32 from the next
    stored = np.atleast_1d(np.asarray(digits, dtype=np.float32)).astype(np.float64)
    name = learner["objective"]["name"]
    link = "identity"
    if name in LOGISTIC:
        link, scores = "logit", np.log(stored / (1 - stored))
    elif name in ("count:poisson", "reg:gamma", "reg:tweedie"):
        link, scores = "log", np.log(stored)
    elif name.startswith("multi"):
        link, scores = "log", np.broadcast_to(stored, (c,))
    else:
        scores = stored
    given = callable(getattr(model, "objective", None))
    if given or learner["learner_model_param"].get("boost_from_average", "1") == "0":
        return Fixed(tuple(scores.tolist())), scores
    if class_weights is not None:
        link = "step"
    return FromMean(link, centred=name.startswith("multi")), scores


def _first_tree(
    loss: BoostedLoss,
    start: np.ndarray,
    rows: Rows,
    leaf: np.ndarray,
    values: np.ndarray,
    class_weights: np.ndarray | None,
) -> FirstTree:
    targets, w, _ = encoded_rows(rows, loss, len(start), class_weights)
    scores = torch.from_numpy(np.broadcast_to(start, (len(w), len(start))).copy())
    slopes = loss.slopes(scores, targets)
    sums = [np.bincount(leaf, w * part[:, 0], len(values)) for part in (slopes.r, slopes.h)]
    return sums[0], sums[1]


def _value(first: FirstTree, settings: Settings) -> np.ndarray:
    """The leaf values of the first tree by these settings."""
    G, H = first
    found = np.sign(G) * np.maximum(np.abs(G) - settings.alpha, 0) / np.maximum(H + settings.damping, 1e-300)
    return settings.eta * (np.clip(found, -settings.limit, settings.limit) if settings.limit else found)


def _strengths(first: FirstTree, values: np.ndarray, limit: float, *, pulled: bool) -> Settings:
    """Eta, lambda and alpha of V (H + lambda) = eta (G - alpha sign V), by least squares over leaves of the first tree.

    Args:
        first: the sums in its leaves.
        values: of the leaves V.
        limit: what the objective itself clips at: leaves of the largest value may have been.
        pulled: whether alpha is fitted, or 0.
    """
    most = np.abs(values).max(initial=0)
    free = (values != 0) & ((np.abs(values) < 0.999 * most) if limit else True)
    G, H, V = first[0][free], first[1][free], values[free]
    columns = np.stack([G, -V, -np.sign(V)][: 3 if pulled else 2], axis=1)
    eta, damping, *rest = np.linalg.lstsq(columns, V * H, rcond=None)[0]
    alpha = float(rest[0] / eta) if rest and eta else 0.0
    return Settings(float(eta), float(max(damping, 0.0)), max(alpha, 0.0), limit)


def strengths(booster: Any, rows: Rows) -> dict[str, float]:
    """What a model from a file has lost and its first tree still says, by XGBoost's names: eta, lambda, alpha.

    `rows` are all that `booster` was trained on.
    """
    reading = xgboost(booster, rows)
    first = next(iter(reading.rounds), None)
    if first is None:
        return {}
    one, parallel = first.trees[0], len(first.trees) // reading.outputs  # which share eta
    return {"eta": first.rate * parallel, "lambda": float(one.damping[0]), "alpha": one.l1}
