#!/usr/bin/env bash
# statsmodels 0.15.0 (Python 3.11): one `sm.families.Binomial()` object given to two GLMs keeps the number of trials of the
# first, and the second one's log-likelihood is computed with it.
#
# One would guess that a family is a description without state, as a link is: users make one and reuse it in a loop. A GLM
# of counts (successes, failures) writes its trials into the family object. A 0/1 model made next with the same object has
# another log-likelihood, and so AIC and BIC, than with an object of its own, without a warning; its coefficients agree.
#
# Output seen:
#   log-likelihood of the 0/1 fit: own family -35.29, shared family -317.58
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check statsmodels==0.15.0 pandas==2.3.3 numpy==2.3.5 scipy==1.16.3
cat >"$work/check.py" <<'PY'
import numpy as np
import statsmodels.api as sm

rng = np.random.default_rng(0)
X = sm.add_constant(rng.normal(size=(60, 2)))
share = 1 / (1 + np.exp(-X @ [0.3, 1.0, -1.0]))
successes, labels = rng.binomial(9, share), rng.binomial(1, share)
counts = np.column_stack([successes, 9 - successes])

own = sm.GLM(labels, X, family=sm.families.Binomial()).fit()
family = sm.families.Binomial()
sm.GLM(counts, X, family=family).fit()
shared = sm.GLM(labels, X, family=family).fit()
print(f"log-likelihood of the 0/1 fit: own family {own.llf:.2f}, shared family {shared.llf:.2f}")
assert np.allclose(own.params, shared.params)
assert abs(own.llf - shared.llf) > 1
PY
"$work/venv/bin/python" "$work/check.py"
