#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): AdamW with weight_decay=0.1 on full batches comes to rest at the minimum WITHOUT any
# penalty. Only at |theta| = 1 / weight_decay does it hold a weight back, and there it is a wall.
#
# One would guess that weight decay leaves smaller weights: with SGD and Adam the same weight_decay gives the ridge solution.
# AdamW's decay stands outside of the division by sqrt(v), so that rest means gradient = -d (sqrt(v) + eps) theta: a penalty
# of d (sqrt(v_j) + eps) on weight j, not of d. On full batches v goes to the square of the gradient itself, and the penalty
# vanishes together with the gradient, unless |theta_j| reaches 1 / d. (With mini-batches v holds the noise of the
# gradients, and d is a penalty in units of that.) So a `weight_decay` of AdamW must not be read as the l2 of the objective
# that the model minimises.
#
# Output seen (least squares with three weights; betas=(0.9, 0.99), only so that v forgets sooner):
#   no penalty:               3.067 -0.856 0.579
#   ridge with 0.1:           2.827 -0.789 0.524
#   SGD,   weight_decay=0.1:  2.827 -0.789 0.524
#   Adam,  weight_decay=0.1:  2.827 -0.789 0.525
#   AdamW, weight_decay=0.1:  3.067 -0.856 0.578
#   ridge with 0.5:           2.155 -0.599 0.381
#   AdamW, weight_decay=0.5:  2.000 -0.937 0.500
#   no penalty, |theta| <= 2: 2.000 -0.937 0.500
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
X = torch.randn(50, 3)
y = X @ torch.tensor([3.0, -1.0, 0.5]) + torch.randn(50)
S, b = X.T @ X / 50, X.T @ y / 50


def trained(optimiser, **options):
    theta = torch.zeros(3, requires_grad=True)
    steps = optimiser([theta], **options)
    for _ in range(4000):
        theta.grad = S @ theta.detach() - b  # of the mean loss 1/2 (x . theta - y)^2
        steps.step()
    return theta.detach()


def told(name, theta):
    print(f"{name + ':':25}", *(f"{v:.3f}" for v in theta.tolist()))
    return theta


def near(one, other):
    return float((one - other).abs().max()) < 2e-3


adaptive = {"lr": 0.01, "betas": (0.9, 0.99)}
free = told("no penalty", torch.linalg.solve(S, b))
ridge = told("ridge with 0.1", torch.linalg.solve(S + 0.1 * torch.eye(3), b))
sgd = told("SGD,   weight_decay=0.1", trained(torch.optim.SGD, lr=0.1, weight_decay=0.1))
adam = told("Adam,  weight_decay=0.1", trained(torch.optim.Adam, weight_decay=0.1, **adaptive))
adamw = told("AdamW, weight_decay=0.1", trained(torch.optim.AdamW, weight_decay=0.1, **adaptive))
assert near(sgd, ridge) and near(adam, ridge) and near(adamw, free) and not near(ridge, free)

told("ridge with 0.5", torch.linalg.solve(S + 0.5 * torch.eye(3), b))
adamw = told("AdamW, weight_decay=0.5", trained(torch.optim.AdamW, weight_decay=0.5, **adaptive))
wall = torch.tensor([2.0])
rest = torch.linalg.solve(S[1:, 1:], b[1:] - S[1:, 0] * wall)
assert near(adamw, told("no penalty, |theta| <= 2", torch.cat([wall, rest])))
PY
"$work/venv/bin/python" "$work/check.py"
