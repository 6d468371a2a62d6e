#!/usr/bin/env bash
# scikit-learn 1.5.2 against 1.9.1 (Python 3.11): `LogisticRegression(solver="newton-cholesky")` with three classes is three
# models of one class against the rest in the one and softmax regression in the other: same call, other probabilities.
#
# One would guess that `solver` says how the minimum is found and not which one. In 1.5.2 the text on multi_class says that
# the default "auto" selects "multinomial" unless the data are binary or the solver is liblinear; the text on solver says that
# newton-cholesky "can only handle binary classification by default", from which one would guess an error. Neither is so: it
# fits one class against the rest, without a warning. So changing the solver for speed, or the version, moves probabilities
# by up to 0.39, and an analysis that takes the softmax objective for granted is about another model.
#
# Output seen (150 flowers, 3 classes):
#   1.5.2 lbfgs: probabilities from softmax by 0.00, from one against the rest by 0.49; accuracy 0.97
#   1.5.2 newton-cholesky: probabilities from softmax by 0.39, from one against the rest by 0.00; accuracy 0.95
#   1.9.1 lbfgs: probabilities from softmax by 0.00, from one against the rest by 0.49; accuracy 0.97
#   1.9.1 newton-cholesky: probabilities from softmax by 0.00, from one against the rest by 0.49; accuracy 0.97
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/check.py" <<'PY'
import sys

import numpy as np
import sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

X, y = load_iris(return_X_y=True)
for solver in ("lbfgs", "newton-cholesky"):
    model = LogisticRegression(solver=solver, tol=1e-8, max_iter=10_000).fit(X, y)
    z, found = model.decision_function(X), model.predict_proba(X)
    softmax, each = np.exp(z - z.max(1, keepdims=True)), 1 / (1 + np.exp(-z))
    from_softmax = np.abs(found - softmax / softmax.sum(1, keepdims=True)).max()
    from_each = np.abs(found - each / each.sum(1, keepdims=True)).max()
    print(f"{sklearn.__version__} {solver}: probabilities from softmax by {from_softmax:.2f},", end=" ")
    print(f"from one against the rest by {from_each:.2f}; accuracy {model.score(X, y):.2f}")
    one_against_rest = solver == "newton-cholesky" and sys.argv[1] == "old"
    assert (from_each if one_against_rest else from_softmax) < 1e-6
    assert (from_softmax if one_against_rest else from_each) > 0.1
PY
for age in old new; do
  pins="scikit-learn==1.5.2 numpy==2.0.2 scipy==1.14.1"
  [ "$age" = old ] || pins="scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1"
  python3 -m venv "$work/$age"
  # shellcheck disable=SC2086
  "$work/$age/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check $pins
  "$work/$age/bin/python" "$work/check.py" "$age"
done
