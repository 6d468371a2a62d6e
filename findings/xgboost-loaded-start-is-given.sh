#!/usr/bin/env bash
# xgboost 3.2.0 (Python 3.11): an estimator that load_model filled and that is fitted again starts at the base_score of the
# old labels. Its eta, lambda and number of rounds are the defaults, but the start is kept.
#
# One would guess that fit() trains anew: the start of a fresh XGBClassifier is the mean of the labels it is given. Loading
# puts the old mean into the parameter base_score, where fit and clone take it for a number that the user chose.
#
# Output seen:
#   mean of the new labels 0.16; start of a fresh estimator 0.16, of the loaded one 0.47
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check xgboost-cpu==3.2.0 scikit-learn==1.9.1
cat >"$work/check.py" <<'PY'
import json
import sys

import numpy as np
import xgboost

X = np.random.default_rng(0).normal(size=(200, 3))
old, new = (X[:, 0] > 0).astype(int), (X[:, 0] > 1).astype(int)


def start(model):
    """The start of the scores, as a probability."""
    saved = json.loads(model.get_booster().save_raw("json"))["learner"]["learner_model_param"]
    return float(json.loads(saved["base_score"])[0])


file = sys.argv[1] + "/model.ubj"
xgboost.XGBClassifier(n_estimators=3).fit(X, old).save_model(file)
loaded = xgboost.XGBClassifier()
loaded.load_model(file)
fresh = start(xgboost.XGBClassifier().fit(X, new))
again = start(loaded.fit(X, new))
print(f"mean of the new labels {new.mean():.2f}; start of a fresh estimator {fresh:.2f}, of the loaded one {again:.2f}")
assert abs(fresh - new.mean()) < 1e-6
assert abs(again - old.mean()) < 1e-6
PY
"$work/venv/bin/python" "$work/check.py" "$work"
