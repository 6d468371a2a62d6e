"""All 55,000 scores of softmax regression on MNIST (p = 7,840): upweight beside the peers, in the same run.

    python -m benchmarks softmax --m 1 16 100
    python -m benchmarks softmax --rows 2000 --m 4 --libraries upweight-cg-ekfac     a trial run

Every measurement is a process of its own, so that its peak memory is its own; time is from trained weights to scores,
imports and loading apart. The error of a row is ||scores - reference|| / ||reference||, the reference a factorised
float64 Hessian (`upweight-exact`). Peers need benchmarks/requirements.txt. UPWEIGHT_DATA_DIR must hold mnist.npz.
`--weights` is what the experiment fig2_linear keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import upweight as uw
from benchmarks import comparing
from benchmarks.judging import row_errors
from benchmarks.libraries.upweight import linear_problem
from benchmarks.problems import SOFTMAX, Task, linear_model, trained

REFERENCE = "upweight-exact"
DEFAULT = [
    "upweight-cg-ekfac", "upweight-cg-hessian", REFERENCE, "upweight-problem", "pydvl", "dattri", "captum"
]  # fmt: skip


def without_penalty(reference: np.ndarray, task: Task, test: Any) -> np.ndarray:
    """The reference with the penalty left out of the train gradient: the other convention, from the same solves."""
    linear = linear_problem(task, keep="total")
    penalty = linear.l2 * linear.theta
    solver = uw.ConjugateGradient(rtol=1e-8, preconditioner=uw.EKFAC(linear, rows=5500))
    solved = uw.Influence(linear, solver=solver).solve(linear.test_gradients(test)).value
    return (torch.from_numpy(reference) + (solved @ penalty)[:, None]).numpy()


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = comparing.parser(__name__, __doc__, [1, 16, 100], timeout=400)
    parser.add_argument("--weights", type=Path, help="(10, 784) tensor file, the optimum")
    options = comparing.options(parser, argv)
    model = linear_model(trained(options.weights, "fig2_linear").double())
    path = comparing.keep_model(model, options.out / "softmax.pt")
    measurements = comparing.Measurements("softmax", path, options)
    print("| | m | set-up s | query s | MiB | worst error |\n|---|---|---|---|---|---|")
    for m in options.m:
        lines = {}
        for name in dict.fromkeys(
            [REFERENCE, *(DEFAULT if options.libraries is None else options.libraries)]
        ):
            lines[name] = measurements.line(name, m)
        reference = np.load(measurements.scores(REFERENCE, m))["scores"]
        X, y, test = SOFTMAX.load(m, options.rows, options.data)
        bare = without_penalty(reference, Task(model, X, y, SOFTMAX.l2), test)
        for name, line in lines.items():
            if why := line.get("failed"):
                print(f"| {name} | {m} | {why} | | | |", flush=True)
                continue
            scores = np.load(measurements.scores(name, m))["scores"]
            # Against whichever convention of the train gradient fits.
            worst = min(row_errors(scores, truth).max() for truth in (reference, bare))
            print(
                f"| {name} | {m} | {line['setup_s']:.2f} | {line['query_s']:.2f} | {line['peak_mib']} | {worst:.1e} |",
                flush=True,
            )
