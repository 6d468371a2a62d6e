"""Boosted trees of CatBoost, whose leaf values are Newton steps over all rows, whatever each tree drew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ..trees.losses import (
    BoostedLogistic,
    BoostedLoss,
    BoostedSquared,
    BoostedTweedie,
    CoupledSoftmax,
    Quantiles,
)
from ..trees.quantiles import Beside, BoostedQuantile, Pinball
from ..trees.start import Fixed, FromMean, Start
from ..trees.structure import Round
from ..trees.together import leaf_sums, with_damping
from ..types import Tensor
from .catboost_paths import as_json, catboost_paths, leaf_weights
from .tree_models import (
    Encoded,
    Rows,
    TreeReading,
    against_the_rest,
    encoded_rows,
    numbered_leaves,
    refused,
    tree,
)

CLOSE = 1e-9
"""How far the end of Newton steps may be from the leaf values of a tree, as a share of the largest."""
LEAST = 1e-6
"""Of l2_leaf_reg, where several classes share a leaf: without it their matrix is singular."""
MOST = 256
"""Newton steps that may be tried to find those of one tree: a pass over the rows each."""


def catboost(model: Any, rows: Rows) -> TreeReading:
    """CatBoostClassifier, CatBoostRegressor and CatBoost: eta times the end of k Newton steps, each -G / (H + L).

    L is l2_leaf_reg times the mean weight; for several classes H is a matrix, and L stands on its diagonal. Which steps
    were halved (leaf_estimation_backtracking) is not recorded, but follows from the values that they lead to.
    """
    settings = model.get_all_params()
    _check(model, settings)
    loss, link = _loss(model, settings)
    bias = np.atleast_1d(model.get_scale_and_bias()[1])
    start: Start = FromMean(link) if settings["boost_from_average"] else Fixed(tuple(bias.tolist()))
    class_weights = _class_weights(settings)
    c = len(bias)
    data = encoded_rows(rows, loss, c, class_weights)
    ends = np.cumsum([0, *model.get_tree_leaf_counts()])
    sizes = [np.arange(size) for size in np.diff(ends)]

    def apply(X: Any) -> Tensor:
        return numbered_leaves(model.calc_leaf_indexes(_pool(model, X)).astype(np.int64), sizes)

    leaf, rate = apply(rows.X), float(settings["learning_rate"])
    saved = as_json(model)
    _check_leaves(model, settings, leaf, data, leaf_weights(saved))
    own_values = np.split(np.asarray(model.get_leaf_values()).reshape(-1, c), ends[1:-1])
    values = [own / rate for own in own_values]
    damping = float(settings["l2_leaf_reg"]) * float(data.w.mean())
    most = int(settings["leaf_estimation_iterations"])
    halved = most > 1 and settings["leaf_estimation_backtracking"] != "No"
    scores = torch.tensor(bias, dtype=torch.float64).repeat(len(data.w), 1)
    found, stored = [], []
    for t, goal in enumerate(values):
        if loss.quantiles is not None:
            found.append(Round((tree(t, 0, len(goal)),), rate))
            stored.append(goal[:, 0])
            scores += rate * torch.from_numpy(goal)[leaf[t].long()]
            continue
        newton = _newton(loss, data, scores, leaf[t].long(), len(goal), damping)
        steps = _steps(newton, goal, most, halved)
        own = tuple(tree(t, k, len(goal), damping) for k in range(c))
        found.append(Round(own, rate, tuple(share for share, _ in steps)))
        stored.append(_known(steps, goal))
        scores += rate * torch.from_numpy(goal)[leaf[t].long()]
    return TreeReading(
        loss,
        start,
        tuple(found),
        c,
        apply,
        np.concatenate(stored) if stored else np.empty(0),
        lambda X: np.asarray(model.predict(_pool(model, X), prediction_type="RawFormulaVal")).reshape(-1, c),
        class_weights=class_weights,
        single=True,
        own_start=Fixed(tuple(bias.tolist())),
        damped_by_mean=True,
        paths=catboost_paths(saved, own_values),
        notes=(
            *_notes(model, settings, rows, any(set(one.steps) != {1.0} for one in found)),
            *against_the_rest(loss, c),
        ),
    )


def _pool(model: Any, X: Any) -> Any:
    import catboost

    return catboost.Pool(X, cat_features=model.get_cat_feature_indices())


def _check(model: Any, settings: dict[str, Any]) -> None:
    """Refuse what leaves the fit undetermined."""
    if model.get_text_feature_indices() or model.get_embedding_feature_indices():
        raise refused(model, "columns of text or embeddings, whose training leaves are not recorded")
    if settings.get("monotone_constraints"):
        raise refused(model, "monotone_constraints, which clip a leaf by its neighbours")
    if settings.get("langevin") or settings.get("posterior_sampling"):
        raise refused(model, "langevin, which adds noise to the leaf values")
    if float(settings.get("model_shrink_rate") or 0) > 0:
        raise refused(model, "model_shrink_rate, which shrinks trees after they were fitted")
    if settings.get("task_type", "CPU") != "CPU":
        raise refused(model, "task_type='GPU', whose leaf values are not read")
    exact = settings["leaf_estimation_method"] == "Exact" and _level(settings["loss_function"]) is not None
    if not exact and settings["leaf_estimation_method"] != "Newton" and settings["loss_function"] != "RMSE":
        raise refused(
            model, f"leaf_estimation_method={settings['leaf_estimation_method']!r}, which is not read"
        )
    if model.get_scale_and_bias()[0] != 1:
        raise refused(model, "a scale that was set by hand")


def _check_leaves(
    model: Any, settings: dict[str, Any], leaf: Tensor, data: Encoded, weighed: list[np.ndarray]
) -> None:
    """Refuse categories by target statistics: in training their rows lay in other leaves than they do now.

    Args:
        model: the model.
        settings: all of its parameters.
        leaf: the leaves of the training rows now (t, n).
        data: the rows.
        weighed: what the rows of each leaf weighed in training, for each tree, in any order.
    """
    if not len(leaf) or not model.get_cat_feature_indices():
        return
    for t, own in enumerate(weighed):
        now = torch.bincount(leaf[t].long(), data.w, len(own)).numpy()
        if not np.allclose(np.sort(own), np.sort(now), rtol=1e-4, atol=1e-4 * float(data.w.mean())):
            raise refused(
                model,
                f"categories of more values than one_hot_max_size={settings.get('one_hot_max_size', 2)}: they are "
                "numbered by the labels of the rows before each (target statistics), so that in training rows lay in "
                f"other leaves than they do now (tree {t} shows it); or fit with one_hot_max_size=255",
            )


def _loss(model: Any, settings: dict[str, Any]) -> tuple[BoostedLoss, str]:
    """What is boosted, and the link of the start."""
    name = settings["loss_function"]
    if name in ("Logloss", "MultiClassOneVsAll"):
        return BoostedLogistic(), "logit"
    if name == "RMSE":
        return BoostedSquared(), "identity"
    if name == "Poisson":
        return BoostedTweedie(1.0), "log"
    if (level := _level(name)) is not None:
        rules = Quantiles(Beside(level, single=True), Beside(level, weighted=False))
        return BoostedQuantile(Pinball(level, 2.0 if name == "MAE" else 1.0), rules), "identity"
    if name == "MultiClass" and float(settings["l2_leaf_reg"]) >= LEAST:
        return CoupledSoftmax(), "identity"
    if name == "MultiClass":
        raise refused(
            model,
            "l2_leaf_reg=0 and several classes, whose values in a leaf are then only known but for a number that is "
            "added to all",
        )
    raise refused(model, f"loss_function={name!r}, whose leaves are not read")


def _level(name: str) -> float | None:
    """The level of the quantile that a loss function is about; None for others, and where a delta was given."""
    if name in ("MAE", "Quantile"):
        return 0.5
    start = "Quantile:alpha="
    return float(name.removeprefix(start)) if name.startswith(start) and ";" not in name else None


def _class_weights(settings: dict[str, Any]) -> np.ndarray | None:
    given = settings.get("class_weights")
    return np.asarray(given, dtype=np.float64) if given else None


def _notes(model: Any, settings: dict[str, Any], rows: Rows, halved: bool) -> tuple[str, ...]:
    """What is held fixed.

    Args:
        model: the model.
        settings: all of its parameters.
        rows: those of training.
        halved: whether Newton steps were.
    """
    found = []
    if not {"learning_rate", "eta"} & set(model.get_params()):
        rate = settings["learning_rate"]
        found.append(f"the learning rate {rate:.3g} is held fixed: CatBoost chose it by the number of rows")
    if halved:
        found.append(
            "which Newton steps were halved or left out (leaf_estimation_backtracking) is held fixed"
        )
    if settings.get("auto_class_weights", "None") != "None":
        found.append(
            f"the class weights of auto_class_weights={settings['auto_class_weights']!r} are held fixed"
        )
    if rows.weight is not None:
        found.append(
            "the mean weight of the rows, which l2_leaf_reg is multiplied by, is held fixed at first order"
        )
    return tuple(found)


# -- the Newton steps of one tree ------------------------------------------------------------------------------------


class Step(NamedTuple):
    """A Newton step in the leaves of a tree: what share of it was gone, and the whole of it (leaves, c)."""

    share: float
    move: np.ndarray


Newton = Callable[[np.ndarray], np.ndarray]
"""The whole Newton step (leaves, c) from leaf values."""


def _newton(
    loss: BoostedLoss, data: Encoded, scores: Tensor, leaf: Tensor, size: int, damping: float
) -> Newton:
    """How a tree's Newton steps are computed.

    Args:
        loss: what is boosted.
        data: the rows.
        scores: before the tree (n, c).
        leaf: of each row.
        size: how many leaves there are.
        damping: what denominators have beside the sums of w h.
    """

    def step(value: np.ndarray) -> np.ndarray:
        slopes = loss.slopes(scores + torch.from_numpy(value)[leaf], data.targets)
        if loss.together:
            G, H = leaf_sums(slopes, data.w, leaf, size)
            return torch.linalg.solve(with_damping(H, torch.full((size,), damping).to(H)), G).numpy()
        c = scores.shape[1]
        G, H = (
            scores.new_zeros(size, c).index_add_(0, leaf, data.w[:, None] * part)
            for part in (slopes.r, slopes.h)
        )
        below = H + damping
        return torch.where(below > 0, G / below, 0).numpy()

    return step


def _steps(newton: Newton, goal: np.ndarray, most: int, halved: bool) -> list[Step]:
    """The Newton steps that lead to a tree's values: at most so many, of which each halving uses up one more.

    Args:
        newton: the whole step from leaf values.
        goal: where they end (leaves, c).
        most: how many steps there may be.
        halved: whether steps may have been halved or left out, where they gained nothing.
    """
    near, tried = CLOSE * np.abs(goal).max(initial=0), 0
    straight: list[Step] = []

    def search(value: np.ndarray, left: int) -> list[Step] | None:
        nonlocal tried
        if halved and np.abs(value - goal).max(initial=0) <= near:
            return []
        if left == 0 or tried == MOST:
            return None
        tried += 1
        move = newton(value)
        if len(straight) == most - left:
            straight.append(Step(1.0, move))
        for halvings in range(left if halved else 1):
            share = 0.5**halvings
            rest = search(value + share * move, left - 1 - halvings)
            if rest is not None:
                return [Step(share, move), *rest]
        return None

    found = search(np.zeros_like(goal), most)
    if found is None:
        return straight
    return found or [Step(0.0, np.zeros_like(goal))]


def _known(steps: list[Step], goal: np.ndarray) -> np.ndarray:
    """What the model says of the values of each step, one after the other: of the last, once the others are known."""
    *before, last = steps
    found = [np.full(goal.size, np.nan) for _ in before]
    rest = goal - sum(share * move for share, move in before)
    own = (rest / last.share).T.ravel() if last.share else np.full(goal.size, np.nan)
    return np.concatenate([*found, own])
