"""Small tables for ensembles of trees, and what every reader of them is held against."""

from typing import Any

import numpy as np
import torch
from sklearn.base import clone

import upweight as uw

from .compare import assert_close_per_row

RNG = np.random.default_rng(0)
N = 240
"""The first N rows are for training, the others for tests."""
TOTAL = N + 12
X = RNG.normal(size=(TOTAL, 4))
HOLES = np.where(RNG.random(X.shape) < 0.1, np.nan, X)
"""The same with values that are missing."""
SWITCHES = RNG.integers(0, 2, size=(TOTAL, 2)).astype(float)
"""Two columns of two values: trees of depth 2 have the same four leaves, whatever rows are left."""


def _targets(signal: np.ndarray) -> dict[str, np.ndarray]:
    noise = RNG.normal(size=TOTAL)
    return {
        "two": np.where(signal + noise > 0.2, "yes", "no"),
        "three": np.array(["low", "mid", "top"])[np.digitize(signal + noise, [-0.7, 0.8])],
        "number": 3 + signal + 0.3 * noise,
        "counts": RNG.poisson(np.exp(0.4 * signal)).astype(float),
        "amounts": np.exp(0.4 * signal + 0.3 * noise),
    }


TARGETS = _targets(X[:, 0] + np.sin(2 * X[:, 1]))
SWITCHED = _targets(2 * SWITCHES[:, 0] * SWITCHES[:, 1] + SWITCHES[:, 1] - SWITCHES[:, 0])


def numbered(targets: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with classes as numbers from 0, which some libraries want."""
    return {
        task: np.unique(y, return_inverse=True)[1] if y.dtype.kind == "U" else y
        for task, y in targets.items()
    }


WEIGHTS = RNG.uniform(0.3, 3.0, N)


def fitted(estimator: Any, X: Any, y: Any, weight: Any = None) -> Any:
    """A copy of an estimator, fitted."""
    return clone(estimator).fit(X, y) if weight is None else clone(estimator).fit(X, y, sample_weight=weight)


def read(estimator: Any, X: Any, task: str, weight: Any = None, targets: Any = TARGETS) -> tuple[Any, Any]:
    """The problem of an estimator fitted on the first N rows, and the others as a test batch."""
    y = targets[task]
    model = fitted(estimator, X[:N], y[:N], weight)
    return uw.from_estimator(model, X[:N], y[:N], sample_weight=weight), (X[N:], y[N:])


def follows_weights(
    problem: Any, test: Any, measure: Any = None, *, rtol: float = 1e-7, step: float = 2e-3
) -> None:
    """The derivative is that of leaves fitted with other weights, by differences of fourth order, for some rows."""
    found = uw.Influence(problem).on_loss(test, measure=measure).values
    rows = [int(i) for i in np.linspace(0, problem.n - 1, 8) if problem.weights[int(i)] > 0]
    expected = []
    for i in rows:
        change = torch.zeros(len(found), dtype=torch.float64)
        for times, share in ((1, 8 / 12), (-1, -8 / 12), (2, -1 / 12), (-2, 1 / 12)):
            w = problem.weights.clone()
            w[i] *= 1 + times * step
            change += share * problem.refitted(w).evaluate(test, measure)
        expected.append(change / step * problem.n)
    assert_close_per_row(found[:, rows], torch.stack(expected, dim=1), rtol)


def as_retrained(
    estimator: Any, task: str, weight: Any = None, targets: Any = SWITCHED, rtol: float = 1e-6
) -> None:
    """Leaves fitted again without rows are those of the library's own retraining, whose splits cannot move."""
    problem, test = read(estimator, SWITCHES, task, weight, targets)
    X, y, kept = SWITCHES, targets[task], np.setdiff1d(np.arange(N), [0, 3, 50, 51, 52, 200])
    left = None if weight is None else weight[kept]
    again = fitted(estimator, X[kept], y[kept], left)
    w = torch.zeros(N, dtype=torch.float64)
    w[kept] = problem.weights[kept]
    found = problem.refitted(w)
    expected = uw.from_estimator(again, X[kept], y[kept], sample_weight=left)
    own = [one.outputs(one.prepared(test)[0]) for one in (found, expected)]
    assert_close_per_row(own[0], own[1], rtol)
    before = problem.outputs(problem.prepared(test)[0])
    assert (before - own[0]).abs().max() > 1e-4, "the removal moves nothing"
