#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): `torch.func.jacrev` of `torch.cdist` is wrong and says nothing, and so is a batch of
# vectors sent through one `vjp` of it by `vmap`.
#
# One would guess that jacrev gives the same matrix as autograd row by row: it is the documented way to a Jacobian, cdist is
# an ordinary differentiable function, and where torch cannot batch an operation it raises or falls back to a loop. With
# p = 2 it happens where both sets have at most 25 points (above that cdist goes another way, by a matrix product, and is
# right): a test with 30 rows passes, and the same model asked about one row is wrong. With p = 1 and 3 it happens at every
# size tried. `jacrev(..., chunk_size=1)`, plain arithmetic and `vmap(grad(...))` over examples are right.
#
# Output seen:
#   p = 2, 1 x 3 points: jacrev off by 115%, with chunk_size=1 by 0%, the same in plain arithmetic by 0%
#   p = 2, 25 x 25 points: jacrev off by 140%, with chunk_size=1 by 0%, the same in plain arithmetic by 0%
#   p = 2, 25 x 26 points: jacrev off by 0%, with chunk_size=1 by 0%, the same in plain arithmetic by 0%
#   p = 1, 26 x 26 points: jacrev off by 141%, with chunk_size=1 by 0%, the same in plain arithmetic by 0%
#   6 vectors through one vjp by vmap: off by 117%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torch.func import jacrev, vjp, vmap

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


def off(found, true):
    return float((found - true).norm() / true.norm())


for p, rows, points in ((2.0, 1, 3), (2.0, 25, 25), (2.0, 25, 26), (1.0, 26, 26)):
    x, centres = torch.randn(rows, 3), torch.randn(points, 3)

    def distances(c):
        return torch.cdist(x, c, p=p)

    def plain(c):
        return torch.linalg.vector_norm(x[:, None] - c, ord=p, dim=-1)

    true = torch.autograd.functional.jacobian(distances, centres)  # one row after the other
    wrong = off(jacrev(distances)(centres), true)
    chunks, arithmetic = off(jacrev(distances, chunk_size=1)(centres), true), off(jacrev(plain)(centres), true)
    print(f"p = {p:.0f}, {rows} x {points} points: jacrev off by {wrong:.0%},", end=" ")
    print(f"with chunk_size=1 by {chunks:.0%}, the same in plain arithmetic by {arithmetic:.0%}")
    assert chunks < 1e-10 and arithmetic < 1e-10
    assert wrong < 1e-10 if (p, points) == (2.0, 26) else wrong > 0.5

x, centres = torch.randn(4, 3), torch.randn(5, 3)
back = vjp(lambda c: torch.cdist(x, c), centres)[1]
vectors = torch.randn(6, 4, 5)
together = vmap(lambda v: back(v)[0])(vectors)
one_by_one = torch.stack([back(v)[0] for v in vectors])
wrong = off(together, one_by_one)
print(f"6 vectors through one vjp by vmap: off by {wrong:.0%}")
assert wrong > 0.5
PY
"$work/venv/bin/python" "$work/check.py"
