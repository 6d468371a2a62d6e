"""What segments of a run lose beside the whole way back: SGD and AdamW, with and without clipping, on small digits.

    python -m experiments segments_digits            500 digits, 40 replays of each kind, two minutes
    python -m experiments segments_digits --small    100 digits, 4 replays, seconds

MLP 64-32-10 with tanh, batch 25, 10 epochs, scikit-learn's digits. LDS of 40 test digits against replays of the run
without random sets of 1, 10 and 50 % of the digits. Writes segments_digits.json and segments_digits.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

import upweight as uw
from experiments import common
from experiments.unrolled_mnist import SHARES, judged, replayed
from upweight.evaluation import random_subsets

SGD, ADAMW = partial(torch.optim.SGD, lr=0.1), partial(torch.optim.AdamW, lr=2e-3)
RUNS: dict[str, tuple[Any, float | None]] = {
    "SGD": (SGD, None),
    "AdamW": (ADAMW, None),
    "SGD, clipped to 0.3": (SGD, 0.3),
    "AdamW, clipped to 0.3": (ADAMW, 0.3),
}


def network() -> nn.Module:
    """The untrained network."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print and write the numbers."""
    options = common.options(common.parser(__name__, __doc__, "100 digits, 4 replays of each kind"), argv)
    n, m, count = (100, 10, 4) if options.small else (500, 40, 40)
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    X, y = torch.tensor(pixels / 16).float()[order], torch.tensor(labels)[order]
    data, test = (X[:n], y[:n]), (X[n : n + m], y[n : n + m])
    result: dict[str, Any] = {}
    for name, (optimizer, clip) in RUNS.items():
        fields: dict[str, Any] = {"epochs": 10, "batch_size": 25, "seed": 0, "clip": clip}
        run = uw.TrainingRun.train(network(), F.cross_entropy, data, optimizer=optimizer, **fields)
        sets = {share: random_subsets(n, count, share=1 - dropped) for share, dropped in SHARES.items()}
        outcomes = {share: (some, replayed(run, some, test)) for share, some in sets.items()}
        ways = {
            "all steps": run,
            "3 segments": uw.Segments(run),
            "3 segments, EKFAC": uw.Segments(run, rank=None),
            "last 25 %": run.last(len(run.steps) // 4),
        }
        result[name] = {
            way: judged(uw.Unrolled(part).on_loss(test).values / -n, outcomes) for way, part in ways.items()
        }
    common.publish(result, options.out / "segments_digits.json")
    figure = Figure(figsize=(10, 3), layout="constrained")
    for axis, (name, found) in zip(figure.subplots(1, len(result), sharey=True), result.items(), strict=True):
        for way, judgements in found.items():
            axis.plot(list(judgements), [one["lds"] for one in judgements.values()], "o-", label=way)
        axis.set(title=name, xlabel="digits dropped")
    figure.axes[0].set_ylabel("linear datamodeling score")
    figure.axes[0].legend()
    figure.savefig(options.out / "segments_digits.png", dpi=150)
