#!/usr/bin/env bash
# catboost 1.2.10 (Python 3.11): leaf values of loss_function="Quantile" (and "MAE") are no quantile of the residuals in the
# leaf, but one of them plus or minus 1e-6, the default of the loss's parameter `delta`, in every leaf of every tree.
#
# One would guess that a leaf that minimises the absolute error is a median of its residuals, one of them or between
# two, and rebuild the model to the last digit. What is missing is small, but it is far above rounding, and adds up
# over the trees.
#
# Output seen (300 rows, 8 trees, rate 1):
#   level 0.5: values less the lower quantile, in millionths: [-1.0, 1.0]
#   level 0.3: values less the lower quantile, in millionths: [-1.0, 1.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check catboost==1.2.10 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import catboost
import numpy as np

draw = np.random.default_rng(0)
X = draw.normal(size=(300, 3))
y = (2 * X[:, 0] + draw.standard_t(3, size=300)).astype(np.float32).astype(float)
for level in (0.5, 0.3):
    model = catboost.CatBoostRegressor(
        iterations=8, loss_function=f"Quantile:alpha={level}", learning_rate=1.0, depth=4, thread_count=1,
        verbose=False, allow_writing_files=False,
    ).fit(X, y)
    outputs = np.full(300, model.get_scale_and_bias()[1])
    leaves = model.calc_leaf_indexes(catboost.Pool(X))
    trees = np.split(model.get_leaf_values(), np.cumsum(model.get_tree_leaf_counts())[:-1])
    seen = set()
    for tree, values in enumerate(trees):
        for leaf in np.unique(leaves[:, tree]):
            left = np.sort((y - outputs)[leaves[:, tree] == leaf])
            quantile = left[max(int(np.ceil(level * len(left) - 1e-12)), 1) - 1]
            seen.add(float(np.round((values[leaf] - quantile) / 1e-6)))
        outputs = outputs + values[leaves[:, tree]]
    print(f"level {level}: values less the lower quantile, in millionths: {sorted(seen)}")
    assert sorted(seen) == [-1.0, 1.0]
PY
"$work/venv/bin/python" "$work/check.py"
