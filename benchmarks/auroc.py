"""The AUROC of a reference set without each of 20,000 training rows (p = 127): upweight beside pyinfluence, in one run.

    python -m benchmarks auroc
    python -m benchmarks auroc --reference 1000 --refits 10

Data are invented: normal columns, a tenth of the rows positive. Both get the same fitted LogisticRegression and give
the change of the AUROC of --reference other rows as each training row is removed. Seconds are of the processor, from
the fitted estimator to all changes, ours the least of three; with OMP_NUM_THREADS=1 no thread waits for another. The
judge are refits of the estimator without a row: half of them the rows with the largest changes (by us), half of them
drawn. pyinfluence is in benchmarks/requirements.txt.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import upweight as uw
from benchmarks.measuring import best, silence
from experiments import commands

N, D = 20_000, 126


def data(reference: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows, and the reference rows after them."""
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(N + reference, D)), 0.1 * rng.normal(size=D)
    return X, (rng.random(N + reference) < 1 / (1 + np.exp(2.8 - X @ weights))).astype(int)


def fitted(X: np.ndarray, y: np.ndarray) -> LogisticRegression:
    """The user's estimator."""
    return LogisticRegression(tol=1e-10, solver="newton-cholesky").fit(X, y)


def ours(model: Any, train: Any, reference: Any) -> np.ndarray:
    """From the estimator to the changes."""
    alone = uw.Influence(uw.from_estimator(model, *train)).leave_one_out()
    return alone.change(reference, measure=uw.measures.auroc)[0].numpy()


def theirs(model: Any, train: Any, reference: Any) -> np.ndarray:
    """The same of pyinfluence."""
    from pyinfluence import FunctionalInfluence, functionals

    influence = FunctionalInfluence(functional=functionals.auroc(1)).fit(model, *train)
    return np.asarray(influence.explain(*reference))


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--reference", type=int, default=5000, help="rows whose AUROC it is")
    parser.add_argument("--refits", type=int, default=40, help="rows that are removed by retraining")
    options = parser.parse_args(argv)
    silence()
    X, y = data(options.reference)
    train, reference = (X[:N], y[:N]), (X[N:], y[N:])
    model = fitted(*train)
    asked = model, train, reference
    found = {"upweight": ours(*asked)}
    seconds = {"upweight": best(lambda: ours(*asked), 3, warm=False, clock=time.process_time)}
    began = time.process_time()
    try:
        found["pyinfluence"] = theirs(*asked)
        seconds["pyinfluence"] = time.process_time() - began
    except ImportError as missing:
        print(f"without pyinfluence: {missing}")
    largest = np.argsort(-np.abs(found["upweight"]))[: options.refits // 2]
    rows = np.append(largest, np.random.default_rng(1).choice(N, options.refits - len(largest), False))
    before = roc_auc_score(reference[1], model.decision_function(reference[0]))
    actual = [
        roc_auc_score(
            reference[1], fitted(np.delete(train[0], i, 0), np.delete(train[1], i)).decision_function(X[N:])
        )
        - before
        for i in rows
    ]
    print("| library | processor seconds | error against refits | Pearson |\n|---|---|---|---|")
    for name, changes in found.items():
        off = np.linalg.norm(changes[rows] - actual) / np.linalg.norm(actual)
        print(
            f"| {name} | {seconds[name]:.2f} | {off:.2e} | {np.corrcoef(changes[rows], actual)[0, 1]:.6f} |"
        )
