#!/usr/bin/env bash
# scikit-learn 1.9.1 (Python 3.11): `DictionaryLearning().fit_transform(X)` and `.fit(X).transform(X)` solve two different
# problems, so in a Pipeline the classifier is trained on other features than it is given at prediction.
#
# One would guess that they agree up to the solver's tolerance: fit_transform is fit and then transform nearly everywhere in
# scikit-learn, a Pipeline builds on it, and `MiniBatchDictionaryLearning` with the same defaults agrees exactly. But
# fit_transform hands out the codes of training, a lasso with penalty alpha, and transform uses `transform_algorithm`, whose
# default "omp" takes a fixed number of atoms (a tenth of the columns, at least one) and no penalty. More iterations do
# not bring them together; transform_algorithm="lasso_lars" does.
#
# Output seen (150 flowers, 4 columns, 4 atoms):
#   default: codes differ by 76%, share of nonzero codes 0.22 and 0.25
#   3,000 iterations, tol=1e-12: codes differ by 76%, share of nonzero codes 0.22 and 0.25
#   transform_algorithm="lasso_lars": codes differ by 0%, share of nonzero codes 0.22 and 0.22
#   MiniBatchDictionaryLearning, default: codes differ by 0%, share of nonzero codes 0.25 and 0.25
#   accuracy on the training rows of a classifier on the codes: trained with fit_transform 0.85, asked by transform 0.67
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat >"$work/check.py" <<'PY'
import numpy as np
from sklearn.datasets import load_iris
from sklearn.decomposition import DictionaryLearning, MiniBatchDictionaryLearning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

X, y = load_iris(return_X_y=True)
X = X / X.max(0)
for name, model, agrees in (
    ("default", DictionaryLearning(4, random_state=0), False),
    ("3,000 iterations, tol=1e-12", DictionaryLearning(4, random_state=0, max_iter=3000, tol=1e-12), False),
    ('transform_algorithm="lasso_lars"', DictionaryLearning(4, random_state=0, transform_algorithm="lasso_lars"), True),
    ("MiniBatchDictionaryLearning, default", MiniBatchDictionaryLearning(4, random_state=0), True),
):
    trained = model.fit_transform(X)
    asked = model.transform(X)
    assert np.array_equal(asked, model.fit(X).transform(X))
    differ = float(np.linalg.norm(trained - asked) / np.linalg.norm(asked))
    print(f"{name}: codes differ by {differ:.0%}, share of nonzero codes", end=" ")
    print(f"{np.mean(trained != 0):.2f} and {np.mean(asked != 0):.2f}")
    assert differ < 0.01 if agrees else differ > 0.2

pipeline = make_pipeline(DictionaryLearning(4, random_state=0), LogisticRegression(max_iter=5000)).fit(X, y)
own = pipeline[-1].score(DictionaryLearning(4, random_state=0).fit_transform(X), y)
asked = pipeline.score(X, y)
print("accuracy on the training rows of a classifier on the codes:", end=" ")
print(f"trained with fit_transform {own:.2f}, asked by transform {asked:.2f}")
assert own - asked > 0.1
PY
"$work/venv/bin/python" "$work/check.py"
