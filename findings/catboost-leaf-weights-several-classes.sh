#!/usr/bin/env bash
# catboost 1.2.10 (Python 3.11): `get_leaf_weights()` of a model of several classes always fails with
# "AssertionError: wrong number of leaf weights", which says nothing of classes.
#
# One would guess that it gives one number per leaf for every model, as `get_tree_leaf_counts` does: the weights are
# there, the JSON file of the same model has them. The check inside expects as many weights as leaf values, of which
# there is one per class.
#
# Output seen (200 rows, 3 trees of depth 2):
#   2 classes: 12 weights of 12 leaves
#   3 classes: wrong number of leaf weights; the JSON file has 12 of 12 leaves
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check catboost==1.2.10 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import json
import pathlib
import sys

import catboost
import numpy as np

draw = np.random.default_rng(0)
X = draw.normal(size=(200, 3))
for classes in (2, 3):
    y = np.digitize(X[:, 0] + draw.normal(size=200), [-0.5, 0.5][: classes - 1])
    model = catboost.CatBoostClassifier(iterations=3, depth=2, verbose=False, allow_writing_files=False).fit(X, y)
    leaves = int(sum(model.get_tree_leaf_counts()))
    if classes == 2:
        print(f"2 classes: {len(model.get_leaf_weights())} weights of {leaves} leaves")
        continue
    try:
        model.get_leaf_weights()
    except AssertionError as error:
        file = pathlib.Path(sys.argv[1], "model.json")
        model.save_model(str(file), format="json")
        saved = json.loads(file.read_text())
        found = sum(len(tree["leaf_weights"]) for tree in saved["oblivious_trees"])
        print(f"3 classes: {error}; the JSON file has {found} of {leaves} leaves")
        assert found == leaves
    else:
        raise SystemExit("it works now")
PY
"$work/venv/bin/python" "$work/check.py" "$work"
