#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): the forward-mode derivative (`torch.func.jvp`, `jacfwd`) of
# `scatter_reduce(..., reduce="prod")` is exactly zero, without an error; the reverse-mode derivative is right.
#
# One would guess that a derivative torch does not have raises, as it does for `index_reduce` ("Trying to use forward AD with
# index_reduce that does not support it"), or else is the one that backward gives. "sum", "mean" and "amax" of the same
# function agree in both modes; only "prod" says that its result does not depend on its input. So jacfwd gives a matrix of
# zeros, `hessian` (jacfwd over jacrev) is another matrix than jacrev over jacrev, and Gauss-Newton products by jvp are 0.
#
# Output seen:
#   sum:  largest entry of the Jacobian by jacfwd 1.000, by jacrev 1.000
#   mean: largest entry of the Jacobian by jacfwd 0.250, by jacrev 0.250
#   amax: largest entry of the Jacobian by jacfwd 1.000, by jacrev 1.000
#   prod: largest entry of the Jacobian by jacfwd 0.000, by jacrev 1.320
#   prod by central differences: 1.320
#   index_reduce: NotImplementedError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import warnings

import torch
from torch.func import jacfwd, jacrev

warnings.simplefilter("ignore")  # index_reduce is in beta
torch.set_default_dtype(torch.float64)
x = torch.tensor([0.5, 0.6, 0.8, 1.2, 1.5, 1.1])
group = torch.arange(6) % 2


def reduced(how):
    return lambda t: torch.ones(2).scatter_reduce(0, group, t, how)


for how in ("sum", "mean", "amax", "prod"):
    forward, reverse = jacfwd(reduced(how))(x), jacrev(reduced(how))(x)
    print(f"{how + ':':5} largest entry of the Jacobian by jacfwd {forward.max():.3f}, by jacrev {reverse.max():.3f}")
    assert (forward == 0).all() if how == "prod" else torch.equal(forward, reverse)

steps = 1e-6 * torch.eye(6)
central = torch.stack([(reduced("prod")(x + s) - reduced("prod")(x - s)) / 2e-6 for s in steps], 1)
print(f"prod by central differences: {central.max():.3f}")
assert torch.allclose(central, jacrev(reduced("prod"))(x))
try:
    jacfwd(lambda t: torch.ones(2).index_reduce(0, group, t, "prod"))(x)
except NotImplementedError as error:
    print("index_reduce:", type(error).__name__)
else:
    raise AssertionError("index_reduce has a forward derivative now")
PY
"$work/venv/bin/python" "$work/check.py"
