#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): with batches of one example the class weights of `CrossEntropyLoss(weight=w)` do nothing:
# the trained model is the same to the last bit as without them.
#
# One would guess that a class of weight 9 pulls nine times as hard, as with `BCEWithLogitsLoss(pos_weight=...)`, whose mean
# divides by the number of examples. The mean of CrossEntropyLoss divides by the sum of the weights in the batch (its
# formula says so), so an example's pull depends on its companions, and alone in its batch it has none to differ from. The
# same happens to gradients per example, and to gradients accumulated over micro-batches of one: code that is right for a
# batch of 20 changes its objective when memory makes the batches small. reduction="sum" over a fixed number is right.
#
# Output seen:
#   CrossEntropyLoss(weight=[1, 9]), batches of 20: class 1 predicted for 0 of 60 rows without, 43 with the weights
#   CrossEntropyLoss(weight=[1, 9]), batches of 1: 0 without, 0 with; parameters equal to the last bit: True
#   gradient of 20 rows in micro-batches of 1, against the whole batch: off by 157%
#   the same for BCEWithLogitsLoss(pos_weight=9): off by 0%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torch import nn

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
X, y = torch.randn(60, 2), (torch.arange(60) % 6 == 0).long()
X[y == 1] += 0.7
weights = torch.tensor([1.0, 9.0])


def trained(weight, size):
    torch.manual_seed(1)
    model, loss = nn.Linear(2, 2), nn.CrossEntropyLoss(weight=weight)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for _ in range(30):
        for rows in torch.arange(60).split(size):
            optimiser.zero_grad()
            loss(model(X[rows]), y[rows]).backward()
            optimiser.step()
    return model


def found(model):
    return int((model(X).argmax(1) == 1).sum())


plain, weighted = trained(None, 20), trained(weights, 20)
print("CrossEntropyLoss(weight=[1, 9]), batches of 20: class 1 predicted for", end=" ")
print(f"{found(plain)} of 60 rows without, {found(weighted)} with the weights")
assert found(weighted) > found(plain) + 10
plain, weighted = trained(None, 1), trained(weights, 1)
same = all(torch.equal(a, b) for a, b in zip(plain.parameters(), weighted.parameters(), strict=True))
print(f"CrossEntropyLoss(weight=[1, 9]), batches of 1: {found(plain)} without, {found(weighted)} with;", end=" ")
print(f"parameters equal to the last bit: {same}")
assert same


def accumulated(outputs, loss, target, size):
    """The gradient of the mean loss of 20 rows, accumulated over batches of equal size."""
    torch.manual_seed(2)
    model = nn.Linear(2, outputs)
    for rows in torch.arange(20).split(size):
        (loss(model(X[rows]).squeeze(1), target[rows]) * size / 20).backward()
    return model.bias.grad


for name, outputs, loss, target in (
    ("gradient of 20 rows in micro-batches of 1, against the whole batch", 2, nn.CrossEntropyLoss(weight=weights), y),
    ("the same for BCEWithLogitsLoss(pos_weight=9)", 1, nn.BCEWithLogitsLoss(pos_weight=torch.tensor(9.0)), y.double()),
):
    small, whole = accumulated(outputs, loss, target, 1), accumulated(outputs, loss, target, 20)
    off = float((small - whole).norm() / whole.norm())
    print(f"{name}: off by {off:.0%}")
    assert off > 0.3 if outputs == 2 else off < 1e-10
PY
"$work/venv/bin/python" "$work/check.py"
