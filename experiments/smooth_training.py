"""Where training is smooth in the weights of its examples, and where a derivative predicts nothing.

Four ways to train a small network on 300 digits: the rank correlation of derivatives through the run with all 300
replays without a row, what `Unrolled.replayed` says of it from 24 of them, and how often its error bars hold. Then the
last steps alone: against the whole run's derivatives, whole replays, and replays that begin where they do.

    python -m experiments smooth_training            two minutes
    python -m experiments smooth_training --small    60 digits

Writes smooth_training.json and smooth_training.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from torch import nn

import upweight as uw
from experiments import common

M = 6
WAYS: dict[str, tuple[Any, Any]] = {
    "SGD 0.05, tanh": (nn.Tanh, partial(torch.optim.SGD, lr=0.05)),
    "SGD 0.5, ReLU": (nn.ReLU, partial(torch.optim.SGD, lr=0.5)),
    "Adam 0.01, ReLU": (nn.ReLU, partial(torch.optim.Adam, lr=0.01)),
    "Adam 0.1, ReLU": (nn.ReLU, partial(torch.optim.Adam, lr=0.1)),
}
SHARES = (1.0, 0.75, 0.5, 0.25, 0.1)


def trained(act: Any, optimizer: Any, n: int, epochs: int) -> tuple[uw.TrainingRun, Any]:
    """A run, and its test rows.

    Args:
        act: between the layers.
        optimizer: from parameters to one.
        n: training rows.
        epochs: how often each is seen.
    """
    X, y = (torch.tensor(part) for part in load_digits(return_X_y=True))
    X, order = X.float() / 16, torch.randperm(len(X), generator=torch.Generator().manual_seed(0))
    rows, test = order[:n], order[n : n + M]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 16), act(), nn.Linear(16, 10))
    run = uw.TrainingRun.train(
        net,
        nn.CrossEntropyLoss(),
        (X[rows], y[rows]),
        optimizer=optimizer,
        epochs=epochs,
        batch_size=32,
        seed=1,
    )
    return run, (X[test], y[test])


def without_each(run: uw.TrainingRun, test: Any) -> torch.Tensor:
    """The changes (m, n) of the test losses in replays without each row."""
    ends = run.replays.without(list(torch.arange(run.n).split(1)))
    before = run.problem.evaluate(test).double()
    return torch.stack([end.evaluate(test).double() - before for end in ends], dim=1)


def rank(a: torch.Tensor, b: torch.Tensor) -> float:
    """The rank correlation of all numbers of two arrays."""
    return float(spearmanr(a.flatten(), b.flatten()).statistic)


def judged(name: str, rows: int, epochs: int) -> dict[str, Any]:
    """What replays without each row say of one way to train.

    Args:
        name: the way.
        rows: training rows.
        epochs: how often each is seen.
    """
    run, test = trained(*WAYS[name], rows, epochs)
    unrolled, actual = uw.Unrolled(run), without_each(run, test)
    effects = unrolled.on_loss(test).effect()
    found: dict[str, Any] = {"rank correlation": rank(effects, actual), "replayed": [], "last": []}
    for seed in range(3):
        sampled = unrolled.replayed(test, seed=seed)
        assert sampled.scores.errors is not None
        held = ((actual - effects).abs() <= 2 * sampled.scores.errors).double().mean()
        found["replayed"].append(
            {
                "metasmoothness": sampled.metasmoothness,
                "rank correlation": sampled.rank,
                "errors": sampled.miss,
                "bend": sampled.bend,
                "error bars hold": float(held),
            }
        )
    for share in SHARES:
        last = run.last(round(share * len(run.steps)))
        part = uw.Unrolled(last).on_loss(test).effect()
        found["last"].append(
            {
                "share": share,
                "with the whole run's derivatives": rank(part, effects),
                "with whole replays": rank(part, actual),
                "with replays from there": rank(part, without_each(last, test)),
            }
        )
    return found


def picture(result: dict[str, Any]) -> Figure:
    """Rank correlations of the last steps' derivatives with replays from there, for each way to train."""
    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axis = figure.subplots()
    for name, found in result.items():
        axis.plot(SHARES, [one["with replays from there"] for one in found["last"]], "o-", label=name)
    axis.set(xlabel="share of the steps that is differentiated", ylabel="rank correlation with replays")
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    chosen = common.options(common.parser(__name__, __doc__, "60 digits, 4 epochs"), argv)
    rows, epochs = (60, 4) if chosen.small else (300, 15)
    result = {name: judged(name, rows, epochs) for name in WAYS}
    picture(result).savefig(chosen.out / "smooth_training.png", dpi=160)
    common.publish(result, chosen.out / "smooth_training.json")


if __name__ == "__main__":
    main()
