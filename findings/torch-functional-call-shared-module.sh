#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): after `torch.func.functional_call` with other weights, a model that uses one module in two
# places KEEPS those weights: its Parameters are gone, plain tensors stand in their place, and training does not reach them.
#
# One would guess that the call leaves the model as it was: that is what it is for, and the example in its own text prints the
# module's old value afterwards. It does restore a model without sharing, and one where only the Parameter is shared
# (`b.weight = a.weight`). With one module registered twice, as in shared encoders or blocks used again, tie_weights=True (the
# default) swaps the same attribute once per name, and what the last swap puts back is what the first one had put in.
# With tie_weights=False and each name given once the model is restored.
#
# Output seen:
#   no sharing: Parameter, outputs after the call moved by 0.00
#   one Parameter in two modules: Parameter, outputs after the call moved by 0.00
#   one module in two places: Tensor, outputs after the call moved by 0.81
#   one module in two places, tie_weights=False: Parameter, outputs after the call moved by 0.00
#   an optimiser made before trains the shared model on: outputs move by 0.00
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torch import nn
from torch.func import functional_call

torch.manual_seed(0)
x = torch.randn(2, 3)


def called(model, **options):
    """What stands in the first layer after a call with all weights doubled, and how far the outputs moved."""
    doubled = {name: 2 * p.detach() for name, p in model.named_parameters()}
    with torch.no_grad():
        before = model(x)
        functional_call(model, doubled, (x,), **options)
        return type(model[0].weight).__name__, float((model(x) - before).abs().max())


layer, again = nn.Linear(3, 3), nn.Linear(3, 3)
apart = nn.Sequential(layer, nn.Tanh(), again)
tied = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
tied[2].weight = tied[0].weight
shared = nn.Sequential(layer, nn.Tanh(), layer)
untied = nn.Sequential(again, nn.Tanh(), again)
head = nn.Linear(3, 1)
optimiser = torch.optim.SGD([*shared.parameters(), *head.parameters()], lr=0.1)
for name, model, options, kept in (
    ("no sharing", apart, {}, True),
    ("one Parameter in two modules", tied, {}, True),
    ("one module in two places", shared, {}, False),
    ("one module in two places, tie_weights=False", untied, {"tie_weights": False}, True),
):
    kind, moved = called(model, **options)
    print(f"{name}: {kind}, outputs after the call moved by {moved:.2f}")
    assert (kind, moved) == ("Parameter", 0) if kept else kind == "Tensor" and moved > 0.1

before = shared(x).detach()
for _ in range(10):
    optimiser.zero_grad()
    head(shared(x)).square().sum().backward()
    optimiser.step()
moved = float((shared(x) - before).detach().abs().max())
print(f"an optimiser made before trains the shared model on: outputs move by {moved:.2f}")
assert moved == 0
PY
"$work/venv/bin/python" "$work/check.py"
