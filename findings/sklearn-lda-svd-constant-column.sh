#!/usr/bin/env bash
# scikit-learn 1.9.1 (Python 3.11): LinearDiscriminantAnalysis with its default solver "svd" gives a column that is the same
# in every training row a coefficient of 1e16 or so, where the constant is not exactly representable. A new row that differs
# there in the seventh digit gets another answer with certainty, and so do the training rows, by rounding.
#
# One would guess that a constant column is left out or has the coefficient 0: that is so for the constant 0, and the solver
# sets standard deviations of 0 to 1 for this very case. But the mean of 100 times 0.1 is off from 0.1 by rounding, the
# standard deviation is then 1e-17 and not 0, the column is divided by it, and rounding errors pass for a signal. Nothing is
# said: no "Variables are collinear" warning. An intercept column, a unit that all rows share or a setting that never
# changed are such columns. solver="lsqr" and a StandardScaler in front behave.
#
# Output seen (35 and 65 rows of two classes, two normal columns and a constant one; the first row asked about, then the same
# row with the constant off by 1e-6):
#   svd, constant 0.0: coefficient 0.0e+00, probability 0.58, then 0.58
#   svd, constant 0.1: coefficient -1.8e+16, probability 0.73, then 1.00
#   lsqr, constant 0.1: coefficient -7.1e-32, probability 0.58, then 0.58
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat >"$work/check.py" <<'PY'
import warnings

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

warnings.simplefilter("error")  # nothing is said
rng = np.random.default_rng(0)
y = np.repeat([0, 1], [35, 65])
X = rng.normal(size=(100, 2)) + y[:, None]
for solver, constant, moves in (("svd", 0.0, False), ("svd", 0.1, True), ("lsqr", 0.1, False)):
    model = LinearDiscriminantAnalysis(solver=solver).fit(np.c_[X, np.full(100, constant)], y)
    asked, near = (model.predict_proba(np.c_[X[:1], [[c]]])[0, 0] for c in (constant, constant + 1e-6))
    print(f"{solver}, constant {constant}: coefficient {model.coef_[0, 2]:.1e}, probability {asked:.2f}, then {near:.2f}")
    assert (abs(asked - near) > 0.2) == moves
    assert (abs(model.coef_[0, 2]) > 1e12) == moves
PY
"$work/venv/bin/python" "$work/check.py"
