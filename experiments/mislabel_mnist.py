"""Wrong labels among MNIST digits, found by the self-influence of one MLP.

    python -m experiments mislabel_mnist            5,000 digits, a tenth with another label
    python -m experiments mislabel_mnist --small    300 digits, seconds

MLP 784-128-64-10, dropout 0.1, SGD 0.01, batch 32, 20 epochs, trained on the labels as they are. Published AUC:
conjugate gradients 0.863, TRAK with 50 models 0.997. Baseline: the loss. Writes mislabel_mnist.png and .json.
Needs UPWEIGHT_DATA_DIR with mnist.npz, except with --small.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import upweight as uw
from experiments import common, mlp
from upweight.evaluation import detection

DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(common.parser(__name__, __doc__, "300 digits"), argv)
    X, y, _, _ = mlp.load(options.small)
    random = np.random.default_rng(0)
    wrong = np.zeros(len(y), dtype=bool)
    wrong[random.choice(len(y), len(y) // 10, replace=False)] = True
    shift = torch.from_numpy(random.integers(1, 10, len(y)))
    given = torch.where(torch.from_numpy(wrong), (y + shift) % 10, y)
    # Few digits are few steps an epoch.
    model = mlp.train(X, given, 0, 100 if options.small else mlp.EPOCHS)
    suspicion = {"loss": mlp.losses(model, X, given).numpy()}
    problem = uw.Problem(model, F.cross_entropy, (X, given))
    seconds = {}
    curvature = uw.EKFAC(problem)
    for damping in DAMPINGS[1:3] if options.small else DAMPINGS:
        began = time.perf_counter()
        influence = uw.Influence(problem, curvature=curvature.damped(damping), solver=uw.Exact())
        suspicion[f"EKFAC {damping:g}"] = -np.asarray(influence.on_self())[0]
        seconds[damping] = time.perf_counter() - began
    found: dict[str, Any] = {
        name: dataclasses.asdict(detection(values, wrong)) for name, values in suspicion.items()
    }
    result = {"n": len(y), "wrong": int(wrong.sum()), "found": found, "self_influence_seconds": seconds}
    common.publish(result, options.out / "mislabel_mnist.json")
    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    axis = figure.subplots()
    share = np.arange(1, len(y) + 1) / len(y)
    for name, values in suspicion.items():
        axis.plot(share, np.cumsum(wrong[np.argsort(-values)]) / wrong.sum(), label=name, linewidth=1)
    axis.set(xlabel="share of the labels checked", ylabel="share of the wrong ones found")
    axis.legend(fontsize="x-small")
    figure.savefig(options.out / "mislabel_mnist.png", dpi=120)
