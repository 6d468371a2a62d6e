"""Linear datamodeling score on MNIST: an MLP, one model and an ensemble of ten, against half-data retrainings.

    python -m experiments lds_mnist            5,000 digits, 50 halves trained on twice, about 15 minutes
    python -m experiments lds_mnist --small    300 digits, 6 halves, seconds

MLP 784-128-64-10, dropout 0.1, SGD 0.01, batch 32, 20 epochs; the outcome is the loss of 500 test digits. EKFAC's
damping is chosen on the first half of the retrainings, LDS reported on the second. Published: conjugate gradients
0.256, TRAK with 10 models 0.331, with 50 models 0.446. Retrainings are kept in the folder and found by the next run.
Writes lds_mnist.png and lds_mnist.json. Needs UPWEIGHT_DATA_DIR with mnist.npz, except with --small.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

import upweight as uw
from experiments import common, mlp
from upweight.evaluation import lds, random_subsets, retrained

DAMPINGS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def curvature_of(model: torch.nn.Module, data: Any) -> uw.EKFAC:
    """EKFAC of one trained network."""
    return uw.EKFAC(uw.Problem(model, F.cross_entropy, data))


def scores_of(curvature: uw.EKFAC, test: Any) -> uw.Scores:
    """EKFAC influence of all training digits on all test digits."""
    return uw.Influence(curvature.problem, curvature=curvature, solver=uw.Exact()).on_loss(test)


def draw(result: dict[str, Any], path: Path) -> None:
    """LDS over the damping, and over the number of models."""
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    left.semilogx([float(d) for d in result["choice"]], [*result["choice"].values()], "o-", color="#0072B2")
    left.set(title="one model, first half of the retrainings", xlabel="damping", ylabel="LDS")
    counts = range(1, len(result["by_models"]) + 1)
    right.plot(counts, [part["lds"] for part in result["by_models"]], "o-", color="#0072B2")
    right.axhline(result["by_models"][0]["ceiling"], color="0.6", linewidth=1)
    right.set(title="second half (line: noise ceiling)", xlabel="models in the ensemble")
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(common.parser(__name__, __doc__, "300 digits, 6 halves, 2 models"), argv)
    X, y, X_test, y_test = mlp.load(options.small)
    count, members, epochs = (6, 2, 3) if options.small else (50, 10, mlp.EPOCHS)
    subsets = random_subsets(len(X), count)

    def outcome(kept: torch.Tensor, seed: int) -> torch.Tensor:
        return mlp.losses(mlp.train(X[kept], y[kept], seed, epochs), X_test, y_test)

    began = time.perf_counter()
    # Seeds of their own: retrainings share none with the models that are explained.
    outcomes = retrained(outcome, subsets, seeds=(1000, 1001), folder=options.out / f"lds_{len(X)}")
    retraining = time.perf_counter() - began
    models = [mlp.train(X, y, seed, epochs) for seed in range(members)]
    test = (X_test, y_test)
    dampings = DAMPINGS[2:4] if options.small else DAMPINGS
    half = count // 2
    first = curvature_of(models[0], (X, y))
    choice = {
        damping: lds(scores_of(first.damped(damping), test), subsets[:half], outcomes[:half]).value
        for damping in dampings
    }
    damping = max(choice, key=lambda d: choice[d])
    began = time.perf_counter()
    every = [scores_of(curvature_of(model, (X, y)).damped(damping), test) for model in models]
    seconds = (time.perf_counter() - began) / members
    by_models = [
        common.told(lds(uw.Scores.mean(every[: k + 1]), subsets[half:], outcomes[half:]))
        for k in range(members)
    ]
    single = [lds(one, subsets[half:], outcomes[half:]).value for one in every]
    result = {
        "n": len(X),
        "test_digits": len(X_test),
        "retrainings": count * 2,
        "retraining_seconds": retraining,
        "test_accuracy": float((models[0](X_test).argmax(1) == y_test).double().mean()),
        "choice": {str(d): value for d, value in choice.items()},
        "damping": damping,
        "seconds_per_model": seconds,
        "single_models": {"mean": float(np.mean(single)), "lowest": min(single), "highest": max(single)},
        "by_models": by_models,
    }
    common.publish(result, options.out / "lds_mnist.json")
    draw(result, options.out / "lds_mnist.png")
