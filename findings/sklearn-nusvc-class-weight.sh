#!/usr/bin/env bash
# scikit-learn 1.9.1 (Python 3.11): NuSVC takes class_weight, documents it, and does nothing with it: every decision is the
# same to the last bit. sample_weight, with the same numbers row by row, does count.
#
# One would guess that class_weight multiplies the weight of each class's rows, as in SVC and as in all other classifiers of
# scikit-learn that have it, and that "balanced" helps with a rare class. libsvm has class weights for its C machine alone;
# NuSVC hands them over, and nothing says that they are not used.
#
# Output seen (breast cancer data, scaled):
#   class_weight {0: 5.0}: decisions differ by 0
#   class_weight 'balanced': decisions differ by 0
#   sample_weight of the same numbers: decisions differ by 1.1
#   SVC, class_weight {0: 5}: decisions differ by 0.98
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat >"$work/check.py" <<'PY'
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, NuSVC

X, y = load_breast_cancer(return_X_y=True)
X = StandardScaler().fit_transform(X)
weights = np.where(y == 0, 5.0, 1.0)


def differ(one, other):
    return float(np.abs(one.decision_function(X) - other.decision_function(X)).max())


plain = NuSVC(nu=0.1).fit(X, y)
for given in ({0: 5.0}, "balanced"):
    gap = differ(plain, NuSVC(nu=0.1, class_weight=given).fit(X, y))
    print(f"class_weight {given!r}: decisions differ by {gap:.2g}")
    assert gap == 0
gap = differ(plain, NuSVC(nu=0.1).fit(X, y, sample_weight=weights))
print(f"sample_weight of the same numbers: decisions differ by {gap:.2g}")
assert gap > 0.01
gap = differ(SVC().fit(X, y), SVC(class_weight={0: 5.0}).fit(X, y))
print(f"SVC, class_weight {{0: 5}}: decisions differ by {gap:.2g}")
assert gap > 0.01
PY
"$work/venv/bin/python" "$work/check.py"
