"""A million rows: all scores of 100 test rows beside one LogisticRegression fit of the same data, in the same run.

    python -m benchmarks million [--n 1000000] [--d 100]

Linux. Prints seconds and peak memory above the data of either, and the worst row error against plain float64 algebra
on a sample of the training rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import upweight as uw
from benchmarks.judging import row_errors
from benchmarks.measuring import kib, timed
from experiments import commands


def measured(what: str, work: Callable[[], Any]) -> Any:
    """Run, and print what it took: seconds, and the peak above what the process held before."""
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = kib("VmRSS")
    result, seconds = timed(work)
    print(f"{what}: {seconds:.1f} s, {(kib('VmHWM') - before) >> 10} MiB on top of the data", flush=True)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Draw, fit, explain, compare."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--d", type=int, default=100)
    parser.add_argument("--m", type=int, default=100)
    options = parser.parse_args(argv)
    random = np.random.default_rng(0)
    X = random.standard_normal((options.n, options.d))
    y = (X @ random.standard_normal(options.d) + random.logistic(size=options.n) > 0).astype(int)
    test = X[: options.m] + 0.1, y[: options.m]
    print(f"X: {X.nbytes >> 20} MiB", flush=True)

    def explain() -> tuple[uw.LinearProblem, uw.Scores]:
        problem = uw.from_estimator(model, X, y)
        return problem, uw.Influence(problem).on_loss(test)

    model = measured("one LogisticRegression fit", lambda: LogisticRegression(tol=1e-6).fit(X, y))
    problem, scores = measured(f"from_estimator and all scores of {options.m} test rows", explain)
    print(scores.verdict)
    p = 1 / (1 + np.exp(-(X @ model.coef_[0] + model.intercept_)))
    design = np.column_stack([X, np.ones(options.n)])
    H = (design * (p * (1 - p))[:, None]).T @ design / options.n + np.diag(problem.l2.numpy())
    s = np.linalg.solve(H, problem.test_gradients(test).numpy().T).T
    rows = np.arange(0, options.n, 1 + options.n // 1000)
    truth = -s @ problem.train_gradients(torch.from_numpy(rows)).numpy().T
    error = row_errors(scores.values.numpy()[:, rows], truth)
    print(f"worst row's relative error: {error.max():.1e}")
