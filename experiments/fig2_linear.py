"""Fig. 2, left and middle: influence against leave-one-out retraining, softmax regression on MNIST (R15, R16).

    python -m experiments fig2_linear            55,000 digits, 500 + 500 refits for each of two test digits
    python -m experiments fig2_linear --small    the embedded 5,500 digits, seconds

Writes fig2_linear.png and fig2_linear.json. Needs UPWEIGHT_DATA_DIR with mnist.npz, except with --small.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common
from experiments.data import digits

L2 = 0.01


def train(X: torch.Tensor, y: torch.Tensor, folder: Path) -> uw.LinearProblem:
    """Softmax regression to a gradient norm of 1e-9; the parameters are kept in `folder` for the next run."""
    kept = folder / f"theta_{len(X)}.pt"
    if kept.exists():
        return uw.LinearProblem(X, y, torch.load(kept), loss=uw.Softmax(), l2=L2)
    problem = uw.LinearProblem.fit(X, y, loss=uw.Softmax(), outputs=10, l2=L2, tolerance=1e-9)
    torch.save(problem.params["weight"], kept)
    return problem


def lissa(problem: uw.LinearProblem, digit: Any, exact: torch.Tensor, k: int, depth: int) -> dict[str, Any]:
    """The stochastic scores against the exact ones: r = 10 once, r = 1 for ten seeds."""
    top = exact.abs().topk(k).indices
    best = set(exact.abs().topk(50).indices.tolist())

    def scores(**settings: Any) -> torch.Tensor:
        solver = uw.LiSSA(depth=depth, **settings)
        return uw.Influence(problem, solver=solver).on_loss(digit).removal_effect()[0]

    began = time.perf_counter()
    ten = scores(repeats=10)
    seconds = time.perf_counter() - began
    found, pearson = [], []
    for seed in range(10):
        one = scores(repeats=1, seed=seed)
        found.append(len(best & set(one.abs().topk(50).indices.tolist())) / 50)
        pearson.append(float(np.corrcoef(one[top], exact[top])[0, 1]))
    return {
        "r10_pearson_with_exact": float(np.corrcoef(ten[top], exact[top])[0, 1]),
        "r10_seconds": seconds,
        "r10_ms_per_step_of_ten_repeats": 1e3 * seconds / depth,
        "r1_share_of_top50_found": found,
        "r1_share_median": float(np.median(found)),
        "r1_pearson_median": float(np.median(pearson)),
        "r10_scores": ten[top].tolist(),
    }


def one_digit(problem: uw.LinearProblem, test: Any, index: int, k: int, depth: int) -> dict[str, Any]:
    """Both panels for one test digit."""
    digit = (test[0][[index]], test[1][[index]])
    influence = uw.Influence(problem)
    began = time.perf_counter()
    verification = uw.verify(influence, digit, k=k)
    seconds = time.perf_counter() - began
    print(
        f"test digit {index}: {len(verification.table)} refits in {seconds:.0f} s\n{verification}", flush=True
    )
    assert verification.random is not None
    exact = influence.on_loss(digit).removal_effect()[0]
    middle = lissa(problem, digit, exact, k, depth)
    top = verification.table[verification.table["group"] == "top"]
    print({name: value for name, value in middle.items() if name != "r10_scores"}, flush=True)
    return {
        "test_index": index,
        "target": int(test[1][index]),
        "refit_seconds": seconds,
        "largest_gradient_norm": float(verification.table["gradient norm"].max()),
        "left_top": dataclasses.asdict(verification.top),
        "left_random": dataclasses.asdict(verification.random),
        "middle": middle,
        "predicted": top["predicted"].tolist(),
        "actual": top["actual"].tolist(),
    }


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Predicted against actual, exact on the left, stochastic on the right, one row per test digit."""
    figure = Figure(figsize=(8, 4 * len(results)), layout="constrained")
    axes = figure.subplots(len(results), 2, squeeze=False)
    for row, result in zip(axes, results, strict=True):
        panels = ((result["predicted"], "exact"), (result["middle"]["r10_scores"], "LiSSA, r = 10"))
        for axis, (x, title) in zip(row, panels, strict=True):
            y = result["actual"]
            common.diagonal(axis, x, y)
            axis.scatter(y, x, s=8, color="#0072B2")
            axis.set(
                title=f"test digit {result['test_index']}, {title}: R = {np.corrcoef(x, y)[0, 1]:.4f}",
                xlabel="actual change of the test loss",
                ylabel="predicted change",
            )
    figure.savefig(path, dpi=120)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(
        common.parser(__name__, __doc__, "the embedded 5,500 digits, 20 + 20 refits"), argv
    )
    X, y, X_test, y_test = digits(options.small)
    problem = train(X, y, options.out)
    print(
        f"n = {problem.n}, p = {problem.p}, gradient norm {float(problem.gradient().norm()):.1e}", flush=True
    )
    guess = (X_test.double() @ problem.params["weight"].T).argmax(1)
    wrong = (guess != y_test).nonzero()[:, 0].tolist()
    chosen = wrong[:1] if options.small else [8, next(i for i in wrong if i != 8)]
    k, depth = (20, 300) if options.small else (500, 5000)
    results = [one_digit(problem, (X_test, y_test), index, k, depth) for index in chosen]
    (options.out / "fig2_linear.json").write_text(
        json.dumps({"small": options.small, "digits": results}, indent=1)
    )
    draw(results, options.out / "fig2_linear.png")
