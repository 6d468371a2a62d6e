#!/usr/bin/env bash
# torch 2.13.0 (CPU, Python 3.11): second derivatives through `weight_norm` with its default dim=0 are wrong and no error is
# raised (`torch.nn.utils.parametrizations.weight_norm`, and the older `torch.nn.utils.weight_norm` too).
#
# One would guess that double backward is right or raises: the layer is g v / |v|, five operations that torch differentiates
# any number of times when one writes them out. Gradients are right; the Hessian is not even symmetric. It is the fused
# kernel: with dim=None (one norm for the whole matrix) torch goes another way and is right. Gradient penalties, Hessian-
# vector products, Newton steps and meta-learning through such a layer are all affected.
#
# Output seen:
#   dim=0: gradients off by 0%, Hessian off by 72%, from symmetric by 62%
#   dim=None: gradients off by 0%, Hessian off by 0%, from symmetric by 0%
#   the same as dim=0, written out: gradients off by 0%, Hessian off by 0%, from symmetric by 0%
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cat >"$work/check.py" <<'PY'
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.parametrizations import weight_norm

torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
X, target = torch.randn(7, 4), torch.randn(7, 3)


class WrittenOut(nn.Module):
    def __init__(self):
        super().__init__()
        self.g, self.v, self.bias = (nn.Parameter(torch.randn(*s)) for s in ((3, 1), (3, 4), (3,)))

    def forward(self, x):
        return x @ (self.g * self.v / self.v.square().sum(1, keepdim=True).sqrt()).T + self.bias


def off(found, true):
    return float((found - true).norm() / true.norm())


def judged(layer):
    names, shapes = zip(*((name, p.shape) for name, p in layer.named_parameters()), strict=True)
    start = torch.cat([p.detach().flatten() for p in layer.parameters()])

    def loss(theta):
        parts = theta.split([s.numel() for s in shapes])
        state = {n: part.view(s) for n, part, s in zip(names, parts, shapes, strict=True)}
        return (functional_call(layer, state, (X,)) - target).square().mean()

    def gradient(theta):
        return torch.autograd.functional.jacobian(loss, theta)

    steps = 1e-5 * torch.eye(len(start))
    slopes = torch.stack([(loss(start + s) - loss(start - s)) / 2e-5 for s in steps]).detach()
    true = torch.stack([(gradient(start + s) - gradient(start - s)) / 2e-5 for s in steps])
    hessian = torch.autograd.functional.hessian(loss, start)
    return off(gradient(start), slopes), off(hessian, true), off(hessian, hessian.T)


for name, layer in (
    ("dim=0", weight_norm(nn.Linear(4, 3))),
    ("dim=None", weight_norm(nn.Linear(4, 3), dim=None)),
    ("the same as dim=0, written out", WrittenOut()),
):
    first, second, symmetric = judged(layer)
    print(f"{name}: gradients off by {first:.0%}, Hessian off by {second:.0%}, from symmetric by {symmetric:.0%}")
    assert first < 1e-6
    assert min(second, symmetric) > 0.1 if name == "dim=0" else max(second, symmetric) < 1e-6
PY
"$work/venv/bin/python" "$work/check.py"
