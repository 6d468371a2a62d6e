"""What CatBoost tells of its trees in the JSON file of a model alone: columns of splits, weights of leaves."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .tree_paths import paths

KINDS = {
    "FloatFeature": ("float_features", "float_feature_index"),
    "OneHotFeature": ("categorical_features", "cat_feature_index"),
}
"""Splits of one column: where the file lists the columns of a kind, and what their number among these is called."""


def as_json(model: Any) -> dict[str, Any]:
    """What CatBoost writes of a model into a JSON file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.json")
        model.save_model(str(file), format="json")
        return json.loads(file.read_text())


def leaf_weights(saved: dict[str, Any]) -> list[np.ndarray]:
    """What the rows of each leaf weighed in training, for each tree, leaves in the order of the file.

    `get_leaf_weights` fails for models of several classes. `saved` is what `as_json` gives.
    """
    if "oblivious_trees" in saved:
        return [np.asarray(one["leaf_weights"], dtype=np.float64) for one in saved["oblivious_trees"]]
    return [
        np.array([node["weight"] for node, _ in _leaves(root, lambda split: 0)], dtype=np.float64)
        for root in saved["trees"]
    ]


def catboost_paths(saved: dict[str, Any], values: Sequence[np.ndarray]) -> Any:
    """Which columns are on the path to each leaf, as `paths` has it; None where a split is of no single column.

    Args:
        saved: what `as_json` gives of the model.
        values: of the leaves (leaves, c) of each tree, in the model's own order.
    """
    columns = {
        kind: {
            one["feature_index"]: one["flat_feature_index"] for one in saved["features_info"].get(listed, ())
        }
        for kind, (listed, _) in KINDS.items()
    }

    def column(split: dict[str, Any]) -> int:
        kind = split["split_type"]
        return columns[kind][split[KINDS[kind][1]]]

    try:
        if "oblivious_trees" in saved:  # all leaves of a tree were split on alike
            ways = [
                [[column(split) for split in one.get("splits") or ()]] * len(own)
                for one, own in zip(saved["oblivious_trees"], values, strict=True)
            ]
        else:
            ways = [_in_order(one, own, column) for one, own in zip(saved["trees"], values, strict=True)]
    except KeyError:
        return None
    return paths(ways)


def _in_order(root: dict[str, Any], values: np.ndarray, column: Any) -> list[list[int]]:
    """The columns on the path to each leaf of a tree, in the order of its leaf values.

    The file nests the leaves in an order of its own, so that they are told by their values.

    Args:
        root: of the tree.
        values: of its leaves (leaves, c).
        column: of a split.
    """
    from scipy.optimize import linear_sum_assignment

    found = list(_leaves(root, column))
    nested = np.array([node["value"] for node, _ in found]).reshape(values.shape)
    order = linear_sum_assignment(np.abs(values[:, None] - nested[None]).sum(2))[1]
    return [found[leaf][1] for leaf in order]


def _leaves(root: dict[str, Any], column: Any) -> Iterator[tuple[Any, list[int]]]:
    """The leaves under a node, and the columns on the path to each."""
    stack: list[tuple[dict[str, Any], list[int]]] = [(root, [])]
    while stack:
        node, way = stack.pop()
        if "split" not in node:
            yield node, way
            continue
        on = [*way, column(node["split"])]
        stack += [(node["right"], on), (node["left"], on)]
