"""All 19,997 scores of 1 and 100 hospital patients (p = 127): upweight beside the peers, in the same process.

    python -m benchmarks hospital
    python -m benchmarks hospital --m 1 100 --libraries pydvl dattri dattri-explicit captum-naive

Time is from the fitted estimator to scores, ours the median of 5. Peers get the same model as two-class softmax
regression with weights -w/2 and w/2 and twice the penalty: the same losses, influences and optimum. All in float64. The
error of a row is ||scores - reference|| / ||reference|| against NumPy's explicit Hessian. Peers need
benchmarks/requirements.txt. UPWEIGHT_DATA_DIR must hold diabetic_data.parquet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

import upweight as uw
from benchmarks.judging import row_errors
from benchmarks.libraries import library
from benchmarks.libraries.base import measured
from benchmarks.measuring import silence, timed
from benchmarks.problems import Task, linear_model
from experiments import commands
from experiments import sec53_hospital as hospital

PEERS = ["pydvl", "dattri", "dattri-explicit", "captum-naive"]


def ours(estimator: Any, train: hospital.Patients, asked: hospital.Patients) -> uw.Scores:
    """From the estimator to the scores."""
    return uw.Influence(uw.from_estimator(estimator, train.X, train.y)).on_loss(asked)


def theirs(name: str, task: Task, asked: hospital.Patients, truths: list[np.ndarray]) -> str:
    """A peer's seconds and its worst row's error, against whichever convention of the train gradient fits."""
    try:
        found = measured(library(name, "softmax"), task, (asked.X, (asked.y > 0).long()))
    except Exception as failure:
        return f"failed: {type(failure).__name__} |"
    error = min(row_errors(found.scores, truth).max() for truth in truths)
    return f"{found.setup_s + found.query_s:.3f} | {error:.1e}"


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--m", type=int, nargs="+", default=[1, 100], help="numbers of test patients")
    parser.add_argument("--libraries", nargs="*", default=PEERS, help="beside upweight")
    options = parser.parse_args(argv)
    silence()
    study = hospital.study()
    train, test = study.train, study.test
    X, y, l2 = train.X, train.y, hospital.L2
    fit = {"fit_intercept": False, "solver": "newton-cholesky", "tol": 1e-12, "max_iter": 1000}
    estimator = LogisticRegression(C=1 / (l2 * len(X)), **fit).fit(X.numpy(), y.numpy())
    ours(estimator, train, test.take(np.arange(2)))
    problem = uw.from_estimator(estimator, X, y)
    half = problem.params["weight"] / 2
    task = Task(linear_model(torch.cat([-half, half])), X, (y > 0).long(), 2 * l2)
    print(f"n = {problem.n}, p = {problem.p}, {torch.get_num_threads()} threads")
    print("| library | test points | seconds | worst row error |\n|---|---|---|---|")
    for m in options.m:
        asked = test.take(np.arange(m))
        # The penalty is left out of our train gradients, as peers do.
        truths = [-hospital.dense_scores(problem, train, asked, folded=folded) for folded in (False, True)]
        runs = [timed(ours, estimator, train, asked) for _ in range(5)]
        seconds, error = (
            np.median([took for _, took in runs]),
            row_errors(runs[-1][0].values, truths[0]).max(),
        )
        print(f"| upweight | {m} | {seconds:.4f} | {error:.1e} |", flush=True)
        for name in options.libraries:
            print(f"| {name} | {m} | {theirs(name, task, asked, truths)} |", flush=True)
