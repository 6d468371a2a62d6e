"""Do standard errors of answers by retraining cover the truth at their stated rate, and what does a forest cost?

    python -m experiments by_refitting            some minutes
    python -m experiments by_refitting --small    fewer repetitions and a small forest

`uw.by_refitting` is asked with many seeds, and each 95 % interval is held against the truth:

- `enumerated`: values from random subsets of 8 rows, where all 256 subsets give the truth;
- `neighbours`: the same for a classifier by neighbours on 60 rows, the truth from many more refits;
- `alone`: leave-one-out of a forest with 10 random states, intervals by Student's t, the truth from many more.

Repetitions are drawn anew, intervals of one repetition are not independent: `error` is the standard error of the share
over repetitions. `forest` is the processor time of a forest on 2,000 rows.

Writes by_refitting.json and by_refitting.png.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.neighbors import KNeighborsClassifier

import upweight as uw
from experiments import common

TARGETS = np.array([0.0, 1.0, 5.0, -2.0, 0.5, 2.5, -1.0, 3.0])
SEEDS = 10


class Mean(RegressorMixin, BaseEstimator):
    """The mean of the targets, 0 of none: every subset can be trained on."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Mean:
        self.mean_ = float(np.sum(y) / max(1, len(y)))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), self.mean_)


def covered(ratios: list[np.ndarray], factor: float) -> dict[str, float]:
    """The share of intervals with the truth inside, from (estimate - truth) / standard error of each repetition."""
    shares = np.array([(np.abs(part) < factor).mean() for part in ratios])
    spread = np.sqrt(np.mean([np.mean(part**2) for part in ratios]))
    error = shares.std(ddof=1) / np.sqrt(len(shares))
    return {"share": float(shares.mean()), "error": float(error), "spread of estimate / error": float(spread)}


def enumerated(repetitions: int) -> list[np.ndarray]:
    """Values of 8 rows against those of all 256 subsets."""
    n, target = len(TARGETS), 1.0
    masks = np.array(list(itertools.product([False, True], repeat=n)))
    loss = np.array([0.5 * (TARGETS[mask].sum() / max(1, mask.sum()) - target) ** 2 for mask in masks])
    truth = np.array([loss[~masks[:, i]].mean() - loss[masks[:, i]].mean() for i in range(n)])
    X, found = np.zeros((n, 1)), []
    for seed in range(repetitions):
        scores = uw.by_refitting(Mean(), X, TARGETS, refits=200, seed=seed).on_loss((X[:1], [target]))
        found.append(((scores.effect() - torch.from_numpy(truth)) / scores.errors).numpy().ravel())
    return found


def neighbours(repetitions: int, many: int) -> list[np.ndarray]:
    """Values of 60 rows for ten test rows, against those of many more refits."""
    X, y = make_classification(70, 5, n_informative=3, flip_y=0.1, random_state=0)
    batch = X[60:], y[60:]

    def scores(refits: int, seed: int) -> uw.Scores:
        refitted = uw.by_refitting(KNeighborsClassifier(7), X[:60], y[:60], refits=refits, seed=seed)
        return refitted.on_loss(batch, measure=uw.measures.probability)

    truth = scores(many, 10**6).effect()
    each = [scores(300, seed) for seed in range(repetitions)]
    return [((one.effect() - truth) / one.errors).numpy().ravel() for one in each if one.errors is not None]


def alone(repetitions: int, many: int) -> list[np.ndarray]:
    """Leave-one-out of three rows for a forest of ten trees, against the mean over many random states."""
    X, y = make_classification(110, 5, n_informative=3, flip_y=0.1, random_state=0)
    batch = X[100:], y[100:]

    def scores(seeds: int, seed: int) -> uw.Scores:
        forest = RandomForestClassifier(10, max_depth=4)
        refitted = uw.by_refitting(forest, X[:100], y[:100], refits=10**6, seeds=seeds, seed=seed)
        return refitted.of_each_removal(batch, [0, 1, 2], measure=uw.measures.probability)

    truth = scores(many, 10**6).effect()
    each = [scores(SEEDS, SEEDS * place) for place in range(repetitions)]
    return [((one.effect() - truth) / one.errors).numpy().ravel() for one in each if one.errors is not None]


def forest(trees: int, rows: int, refits: int) -> dict[str, Any]:
    """What the questions about a forest cost on one processor."""
    X, y = make_classification(rows + 200, 20, n_informative=8, flip_y=0.05, random_state=0)
    refitted = uw.by_refitting(
        RandomForestClassifier(trees, random_state=0), X[:rows], y[:rows], refits=refits
    )
    batch, measure = (X[rows:], y[rows:]), uw.measures.probability
    start = time.process_time()
    scores = refitted.on_loss(batch, measure=measure)
    seconds = time.process_time() - start
    names = list(range(max(1, refits // (2 * SEEDS))))
    start = time.process_time()
    single = refitted.of_each_removal(batch, names, measure=measure)
    return {
        "trees, rows, refits": [trees, rows, refits],
        "processor seconds of all rows by subsets": seconds,
        "a refit": seconds / refits,
        "rows left out alone": len(names),
        "processor seconds of these": time.process_time() - start,
        "remarks of the subsets": list(scores.remarks),
        "remarks of single rows": list(single.remarks),
    }


def picture(ratios: dict[str, list[np.ndarray]]) -> Figure:
    """How far estimates are from the truth in standard errors, beside the normal distribution."""
    figure = Figure(figsize=(9, 3), layout="constrained")
    grid = np.linspace(-4, 4, 200)
    for axis, (name, parts) in zip(figure.subplots(1, 3), ratios.items(), strict=True):
        axis.hist(np.concatenate(parts).clip(-4, 4), bins=40, density=True, color="0.7")
        axis.plot(grid, stats.norm.pdf(grid) if name != "alone" else stats.t.pdf(grid, SEEDS - 1))
        axis.set(title=name, xlabel="(estimate - truth) / standard error")
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    chosen = common.options(common.parser(__name__, __doc__, "fewer repetitions, a small forest"), argv)
    few = chosen.small
    ratios = {
        "enumerated": enumerated(25 if few else 100),
        "neighbours": neighbours(8 if few else 25, 2_000 if few else 8_000),
        "alone": alone(6 if few else 40, 30 if few else 200),
    }
    factors = {"enumerated": 1.96, "neighbours": 1.96, "alone": float(stats.t.ppf(0.975, SEEDS - 1))}
    result: dict[str, Any] = {name: covered(parts, factors[name]) for name, parts in ratios.items()}
    result["forest"] = forest(10, 200, 40) if few else forest(100, 2_000, 60)
    picture(ratios).savefig(chosen.out / "by_refitting.png", dpi=160)
    common.publish(result, chosen.out / "by_refitting.json")


if __name__ == "__main__":
    main()
