"""All 19,997 scores of 1 and 100 hospital patients (p = 127): upweight beside the peers, in the same process.

    python benchmarks/hospital.py [--m 1 100] [--peers pydvl dattri dattri-explicit captum-naive]

Time is from the fitted estimator to scores, median of 5. Peers get the same model as two-class softmax regression with
weights -w/2 and w/2 and twice the penalty: the same losses, influences and optimum. All in float64. The error of
a row is ||scores - reference|| / ||reference|| against NumPy's explicit Hessian. Peers need
benchmarks/requirements.txt. UPWEIGHT_DATA_DIR must hold diabetic_data.parquet.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from sklearn.linear_model import LogisticRegression

import upweight as uw

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import sec53_hospital as hospital


def median_of(count: int, work: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds, and what the last run gave."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        found = work()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)), found


def worst_row(scores: Any, truth: np.ndarray) -> float:
    """The largest relative error of a row."""
    off = np.linalg.norm(np.asarray(scores) - truth, axis=1)
    return float((off / np.linalg.norm(truth, axis=1)).max())


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--m", type=int, nargs="+", default=[1, 100])
    parser.add_argument("--peers", nargs="*", default=["pydvl", "dattri", "dattri-explicit", "captum-naive"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    everyone, columns = hospital.load()
    train_rows, test_rows = hospital.split(everyone.y.numpy())
    original, test = everyone.take(train_rows), everyone.take(test_rows)
    child = original.X[:, columns.index(hospital.CHILD)] == 1
    gone = (child & (original.y == -1)).nonzero()[:-1, 0]
    train = original.take(np.setdiff1d(np.arange(len(train_rows)), gone))
    X, y = train.X, train.y
    estimator = LogisticRegression(
        C=1 / (hospital.L2 * len(X)), fit_intercept=False, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(X.numpy(), y.numpy())

    def ours(asked: hospital.Patients) -> uw.Scores:
        problem = uw.from_estimator(estimator, X, y)
        return uw.Influence(problem).on_loss(asked)

    ours(test.take(np.arange(2)))
    problem = uw.from_estimator(estimator, X, y)
    half = problem.params["weight"] / 2
    model = torch.nn.Linear(X.shape[1], 2, bias=False).double().eval()
    with torch.no_grad():
        model.weight.copy_(torch.cat([-half, half]))
    print(f"n = {problem.n}, p = {problem.p}, {torch.get_num_threads()} threads")
    print("| library | test points | seconds | worst row error |\n|---|---|---|---|")
    for m in options.m:
        asked = test.take(np.arange(m))
        # keep="total" leaves the penalty out of the train gradient, as peers do.
        bare, full = (
            -hospital.dense_scores(problem, train, asked, folded=folded) for folded in (False, True)
        )
        seconds, scores = median_of(5, lambda asked=asked: ours(asked))
        print(f"| upweight | {m} | {seconds:.4f} | {worst_row(scores.values, bare):.1e} |", flush=True)
        for name in options.peers:
            data = X, (y > 0).long(), asked.X, (asked.y > 0).long()
            run = peers.LIBRARIES[name]
            try:
                seconds, found = median_of(1, lambda run=run, data=data: run(model, *data, 2 * hospital.L2))
            except Exception as failure:
                print(f"| {name} | {m} | failed: {type(failure).__name__} | |", flush=True)
                continue
            error = min(worst_row(found.scores, bare), worst_row(found.scores, full))
            print(f"| {name} | {m} | {found.setup_s + found.query_s:.3f} | {error:.1e} |", flush=True)


if __name__ == "__main__":
    main()
