"""Boosted trees of a million rows: a question, and a hundred, beside the training by the library itself, in one run.

    python -m benchmarks trees
    python -m benchmarks trees --n 20000 --trees 20

Linux. Data are invented: 20 normal columns, two classes, --trees trees of 31 leaves. Told are seconds, seconds of the
processor and the memory on top of what was held, of the training by LightGBM (with --hist by scikit-learn's
HistGradientBoosting), of reading the fitted model, of the first question (all training rows on one test row: what later
questions share is made), of another one, and of --m together; each as a share of the training. The last line is the
worst relative error of the derivatives of some rows against central differences of leaf values fitted with other
weights. OMP_NUM_THREADS sets the threads of all of them; on a busy machine compare the seconds of the processor.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import upweight as uw
from benchmarks.measuring import kib
from experiments import commands

LEAVES = 31


def data(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose class depends on four of 20 columns."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 20)).astype(np.float32)
    logit = X[:, 0] + np.sin(2 * X[:, 1]) + X[:, 2] * X[:, 3]
    return X, (logit + rng.logistic(size=n) > 0).astype(int)


def unfitted(hist: bool, trees: int) -> Any:
    """The library's own estimator."""
    if hist:
        from sklearn.ensemble import HistGradientBoostingClassifier

        return HistGradientBoostingClassifier(max_iter=trees, max_leaf_nodes=LEAVES, early_stopping=False)
    from lightgbm import LGBMClassifier

    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    return LGBMClassifier(n_estimators=trees, num_leaves=LEAVES, n_jobs=threads, verbosity=-1)


class Clock:
    """Times what is done, and prints it as a share of the first."""

    def __init__(self) -> None:
        self.first: tuple[float, float] | None = None

    def measured(self, what: str, work: Callable[[], Any]) -> Any:
        """What the work gives; its line of the table is printed."""
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        held, began = kib("VmRSS"), (time.perf_counter(), time.process_time())
        found = work()
        wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        self.first = self.first or (wall, cpu)
        print(
            f"| {what} | {wall:.2f} | {cpu:.2f} | {cpu / self.first[1]:.3f} | {(kib('VmHWM') - held) >> 10} |",
            flush=True,
        )
        return found


def differences(problem: Any, rows: np.ndarray, test: Any) -> np.ndarray:
    """Central differences of the loss of a test row in the weights of some training rows, leaf values fitted anew."""
    found = []
    for row in rows:
        moved = []
        for sign in (1, -1):
            w = problem.weights.clone()
            w[row] += sign * 1e-3
            moved.append(float(problem.refitted(w).evaluate(test)))
        found.append(problem.n * (moved[0] - moved[1]) / 2e-3)
    return np.array(found)


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--m", type=int, default=100, help="test rows that are asked about together")
    parser.add_argument("--rows", type=int, default=3, help="training rows whose derivatives are checked")
    parser.add_argument("--hist", action="store_true", help="HistGradientBoosting in place of LightGBM")
    options = parser.parse_args(argv)
    X, y = data(options.n)
    X_test, y_test = data(options.m)
    X_test += 0.1
    print(f"{torch.get_num_threads()} threads\n| what | s | s of the processor | of the training | MiB |")
    print("|---|---|---|---|---|")
    clock = Clock()
    model = clock.measured("training", lambda: unfitted(options.hist, options.trees).fit(X, y))
    problem = clock.measured("reading the model", lambda: uw.from_estimator(model, X, y))
    influence = uw.Influence(problem)
    first = X_test[:1], y_test[:1]
    scores = clock.measured("the first question", lambda: influence.on_loss(first))
    clock.measured("another question", lambda: influence.on_loss((X_test[1:2], y_test[1:2])))
    many = clock.measured(
        f"{options.m} questions together", lambda: influence.on_loss((X_test, y_test))
    ).values
    print(f"together as alone: {float((many[:1] - scores.values).norm() / scores.values.norm()):.1e}")
    # Rows of large effect: differences of others drown in rounding.
    rows = scores.values[0].abs().topk(options.rows).indices.numpy()
    expected = differences(problem, rows, first)
    off = np.abs(scores.values[0].numpy()[rows] / expected - 1)
    print(f"worst error of {len(rows)} rows against central differences: {off.max():.1e}")
