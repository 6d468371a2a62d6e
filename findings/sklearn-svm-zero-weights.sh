#!/usr/bin/env bash
# scikit-learn 1.9.1 (Python 3.11): after `SVC.fit` with some `sample_weight` of 0, `support_` does not number the rows of X,
# and with a precomputed (or callable) kernel the fitted model predicts from the wrong rows, without a word.
#
# One would guess that a row of weight 0 is as good as left out, and that `X[support_]` is `support_vectors_`, as it is for
# positive weights. The rows of weight 0 are dropped before the fit, and `support_` counts among those left. With a built-in
# kernel only that attribute is wrong; with kernel="precomputed" predictions look the kernel up by it in the matrix of all
# rows, and so multiply the coefficient of one row with the kernel of another. SVR, NuSVC, NuSVR and OneClassSVM do the
# same. A weight of 1e-12 in place of 0 gives the right model. (scikit-learn's issues 5150 and 25380 are about zero weights
# here; a correction of `support_` was proposed and is not in this version.)
#
# Output seen:
#   SVC linear: X[support_] is support_vectors_: False; counted among the kept rows: True
#   SVC linear, zero weights: decision function off by 0% of its largest value
#   SVC precomputed, rows left out: off by 0%
#   SVC precomputed, zero weights: off by 280%
#   SVC precomputed, weights of 1e-12: off by 0%
#   SVR precomputed, zero weights: off by 449%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat >"$work/check.py" <<'PY'
import numpy as np
from sklearn.svm import SVC, SVR

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 3))
y = (X[:, 0] + rng.normal(size=60) > 0).astype(int)
K = X @ X.T
weight = np.ones(60)
weight[[3, 8, 20]] = 0
kept = weight > 0
true = SVC(kernel="linear", tol=1e-9).fit(X[kept], y[kept]).decision_function(X)


def off(found, truth=true):
    return float(np.abs(found - truth).max() / np.abs(truth).max())


linear = SVC(kernel="linear", tol=1e-9).fit(X, y, sample_weight=weight)
rows = np.array_equal(X[linear.support_], linear.support_vectors_)
among = np.array_equal(X[kept][linear.support_], linear.support_vectors_)
print(f"SVC linear: X[support_] is support_vectors_: {rows}; counted among the kept rows: {among}")
assert among and not rows
fine = off(linear.decision_function(X))
print(f"SVC linear, zero weights: decision function off by {fine:.0%} of its largest value")
left = off(SVC(kernel="precomputed", tol=1e-9).fit(K[np.ix_(kept, kept)], y[kept]).decision_function(K[:, kept]))
print(f"SVC precomputed, rows left out: off by {left:.0%}")
model = SVC(kernel="precomputed", tol=1e-9).fit(K, y, sample_weight=weight)
wrong = off(model.decision_function(K))
print(f"SVC precomputed, zero weights: off by {wrong:.0%}")
tiny = SVC(kernel="precomputed", tol=1e-9).fit(K, y, sample_weight=np.where(kept, 1, 1e-12)).decision_function(K)
print(f"SVC precomputed, weights of 1e-12: off by {off(tiny):.0%}")
assert max(fine, left, off(tiny)) < 1e-5 and wrong > 0.5

target = X[:, 0] + X[:, 1] ** 2
regression = SVR(kernel="linear", tol=1e-9).fit(X[kept], target[kept]).predict(X)
wrong = off(SVR(kernel="precomputed", tol=1e-9).fit(K, target, sample_weight=weight).predict(K), regression)
print(f"SVR precomputed, zero weights: off by {wrong:.0%}")
assert wrong > 0.5
PY
"$work/venv/bin/python" "$work/check.py"
