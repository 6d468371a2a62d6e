#!/usr/bin/env bash
# scikit-learn 1.9.1 (Python 3.11): the l2 penalty `alpha` of MLPClassifier and MLPRegressor is divided by the rows of a
# batch with solver "sgd" and "adam", so that the same alpha at a tenth of the batch size is ten times the penalty.
#
# One would guess that alpha, like that of SGDClassifier, weighs the penalty beside the mean loss whatever the batch size;
# the documentation says that it is divided by the sample size. Both fits below end where their objective is at rest (the
# learning rate falls to nothing), and differ in the penalty alone.
#
# Output seen:
#   squared weights: batch of 100 rows 2.80, of 10 rows 1.05; of 100 rows with ten times alpha 1.04
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1
cat >"$work/check.py" <<'PY'
import warnings

import numpy as np
from sklearn.neural_network import MLPRegressor

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
X = rng.normal(size=(100, 3))
y = X @ [1.0, -1.0, 0.5]


def squares(batch, alpha):
    """The size of the weights that a network with one linear hidden unit ends at."""
    net = MLPRegressor(
        hidden_layer_sizes=(1,), activation="identity", solver="sgd", alpha=alpha, batch_size=batch, learning_rate_init=0.02,
        momentum=0.0, max_iter=4000, n_iter_no_change=4000, random_state=0,
    )
    return sum(float((w**2).sum()) for w in net.fit(X, y).coefs_)


large, small, scaled = squares(100, 10.0), squares(10, 10.0), squares(100, 100.0)
print(f"squared weights: batch of 100 rows {large:.2f}, of 10 rows {small:.2f}; of 100 rows with ten times alpha {scaled:.2f}")
assert abs(small - scaled) < 0.1 * max(large, scaled)
assert small < 0.9 * large
PY
"$work/venv/bin/python" "$work/check.py"
