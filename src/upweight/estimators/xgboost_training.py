"""How XGBoost's trees in a file are trained again: by what the file and its first tree still say of the parameters."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

DEEP = 6
"""The depth up to which XGBoost grows trees where nothing else is said."""
METHODS = ("hist", "exact")
"""How splits are looked for, the usual way first."""


def trained_again(booster: Any, X: Any, y: Any, known: dict[str, float]) -> Callable[[Any, Any], Any]:
    """What trains trees as those of a file were trained, on other rows.

    What neither the file nor its trees say is as XGBoost has it where nothing is given. Of depth and method of the
    search those that give the trees of the file are taken, else the usual ones.

    Args:
        booster: The trees.
        X: All training rows.
        y: Their targets as numbers.
        known: eta, lambda and alpha, as they follow from the first tree.
    """
    ways = [
        {**_saved(booster), **{name: _rounded(value) for name, value in known.items()}, **way}
        for way in _ways(booster)
    ]
    own = booster.get_dump()
    chosen = next((way for way in ways if _same(_train(booster, way, X, y).get_dump(), own)), ways[0])
    return lambda X, y: _train(booster, chosen, X, y)


def _train(booster: Any, settings: dict[str, Any], X: Any, y: Any) -> Any:
    import xgboost

    data = xgboost.DMatrix(X, label=np.asarray(y), enable_categorical=True)
    return xgboost.train({**settings, "nthread": 1}, data, booster.num_boosted_rounds())


def _saved(booster: Any) -> dict[str, Any]:
    """The parameters that a file keeps: those of the objective, and a start that was given."""
    learner = json.loads(booster.save_raw("json"))["learner"]
    objective, shape = learner["objective"], learner["learner_model_param"]
    ends = learner["gradient_booster"]["model"]["iteration_indptr"]
    found: dict[str, Any] = {"objective": objective["name"]}
    if len(ends) > 1:
        found["num_parallel_tree"] = ends[1] // max(1, int(shape["num_class"]))
    for part in objective.values():
        found |= part if isinstance(part, dict) else {}
    if "quantile_alpha" in found:
        found["quantile_alpha"] = json.loads(found["quantile_alpha"])
    if shape.get("boost_from_average", "1") == "0":
        found["base_score"] = json.loads(shape["base_score"])
    return found


def _ways(booster: Any) -> Iterator[dict[str, Any]]:
    """What the file does not say, as it may have been."""
    deepest = max((line.count("\t") for tree in booster.get_dump() for line in tree.splitlines()), default=0)
    methods = METHODS[:1] if "c" in (booster.feature_types or ()) else METHODS  # "exact" knows no categories
    for depth, method in itertools.product(dict.fromkeys((max(deepest, DEEP), deepest)), methods):
        yield {"max_depth": depth, "tree_method": method}


def _same(found: list[str], own: list[str]) -> bool:
    """Whether trees split at the same places."""
    return len(found) == len(own) and all(map(lambda a, b: _splits(a) == _splits(b), found, own))


def _splits(tree: str) -> list[str]:
    return [line.split("leaf=")[0] for line in tree.splitlines()]


def _rounded(value: float) -> float:
    """The number with few digits that float32 cannot tell from it, where there is one."""
    short = float(f"{value:.4g}")
    return short if abs(short - value) <= 2e-6 * max(abs(value), 1e-3) else value
