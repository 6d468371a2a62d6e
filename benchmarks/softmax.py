"""All 55,000 scores of softmax regression on MNIST (p = 7,840): upweight beside the peers, in the same run.

    python benchmarks/softmax.py --m 1 16 100 [--peers pydvl dattri captum] [--out benchmarks/out]

Every measurement is a process of its own, so that its peak memory is its own; time is from trained weights to scores,
imports and loading apart. The error of a row is ||scores - reference|| / ||reference||, the reference a factorised
float64 Hessian. Peers need benchmarks/requirements.txt. UPWEIGHT_DATA_DIR must hold mnist.npz.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch

import upweight as uw

HERE = Path(__file__).parent
L2 = 0.01
OURS = ("cg-ekfac", "cg-hessian", "exact", "problem")


def influence(method: str, X: torch.Tensor, y: torch.Tensor, theta: torch.Tensor) -> uw.Influence:
    """One of our ways to the same numbers."""
    if method == "problem":
        model = peers.linear_model(theta)
        problem = uw.Problem(model, torch.nn.functional.cross_entropy, (X, y), l2=L2)
        helper = uw.EKFAC(problem, rows=7840, leading=64)
        solver = uw.ConjugateGradient(rtol=8e-4, preconditioner=helper)
        return uw.Influence(problem, curvature=uw.GaussNewton(problem), solver=solver)
    linear = uw.LinearProblem(X, y, theta, loss=uw.Softmax(), l2=L2)
    if method == "exact":
        return uw.Influence(linear, solver=uw.Exact())
    if method == "cg-ekfac":
        closed: Any = uw.EKFAC(linear, rows=7840, leading=64)
    else:
        closed = uw.Hessian(linear.subset(torch.arange(0, linear.n, 10)))
    return uw.Influence(linear, solver=uw.ConjugateGradient(rtol=8e-4, preconditioner=closed))


def measure(method: str, m: int, theta: torch.Tensor, out: Path, data: str) -> dict[str, Any]:
    """Run one of our methods in this process."""
    X, y, X_test, y_test = peers.load(m, path=data)
    warm = influence(method, X[:3000], y[:3000], theta)
    warm.on_loss((X_test[:1], y_test[:1]))
    began = time.perf_counter()
    asked = influence(method, X, y, theta)
    if method == "exact":
        asked.solve(torch.zeros(1, asked.problem.p, dtype=asked.problem.dtype))
    setup = 0.0
    if method == "exact":
        setup, began = time.perf_counter() - began, time.perf_counter()
    scores = asked.on_loss((X_test, y_test))
    query = time.perf_counter() - began
    np.savez(out, scores=scores.values.numpy())
    line = {"library": f"upweight {method}", "m": m, "setup_s": setup, "query_s": query}
    return line | {"peak_mib": peers.peak_mib()}


def spawn(command: list[str], timeout: float) -> dict[str, Any] | None:
    """The JSON line of a child process, or None if it failed or took too long."""
    try:
        done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        print(*done.stderr.strip().splitlines()[-1:], file=sys.stderr, flush=True)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def errors(path: Path, reference: np.ndarray, bare: np.ndarray) -> float:
    """The worst row's relative error, against whichever convention of the train gradient fits."""
    scores = np.load(path)["scores"]
    worst = [
        float((np.linalg.norm(scores - truth, axis=1) / np.linalg.norm(truth, axis=1)).max())
        for truth in (reference, bare)
    ]
    return min(worst)


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--m", type=int, nargs="+", default=[1, 16, 100])
    parser.add_argument("--ours", nargs="*", default=list(OURS))
    parser.add_argument("--peers", nargs="*", default=["pydvl", "dattri", "captum"])
    parser.add_argument("--theta", type=Path, required=True, help="(10, 784) tensor file, the optimum")
    parser.add_argument("--data", required=True, help="mnist.npz")
    parser.add_argument("--out", type=Path, default=HERE / "out")
    parser.add_argument("--timeout", type=float, default=400)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    theta = torch.load(options.theta).double()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        m = options.m[0]
        print(
            json.dumps(measure(options.one, m, theta, options.out / f"{options.one}-{m}.npz", options.data))
        )
        return
    shared = ["--theta", str(options.theta), "--data", options.data]
    lines = []
    for m in options.m:
        # The reference first: Exact, whose residual is recomputed in float64.
        for method in dict.fromkeys(["exact", *options.ours]):
            command = [__file__, "--one", method, "--m", str(m), "--out", str(options.out), *shared]
            lines.append((m, f"{method}-{m}.npz", spawn(command, options.timeout), method))
        for library in options.peers:
            name = f"{library}-{m}.npz"
            command = [
                str(HERE / "peers.py"),
                "--library",
                library,
                "--m",
                str(m),
                "--out",
                str(options.out / name),
            ]
            lines.append((m, name, spawn([*command, *shared], options.timeout), library))
        reference = np.load(options.out / f"exact-{m}.npz")["scores"]
        X, y, X_test, y_test = peers.load(m, path=options.data)
        linear = uw.LinearProblem(X, y, theta, loss=uw.Softmax(), l2=L2, keep="total")
        rows = torch.from_numpy(reference)
        # keep="total" leaves the penalty out of the train gradient: the other convention, from the same solves.
        penalty = linear.l2 * linear.theta
        solver = uw.ConjugateGradient(rtol=1e-8, preconditioner=uw.EKFAC(linear, rows=5500))
        solved = uw.Influence(linear, solver=solver).solve(linear.test_gradients((X_test, y_test))).value
        bare = (rows + (solved @ penalty)[:, None]).numpy()
        for count, name, line, who in lines:
            if count != m:
                continue
            if line is None:
                print(f"| {who} | {m} | failed or over {options.timeout:.0f} s | | | |", flush=True)
                continue
            worst = errors(options.out / name, reference, bare)
            print(
                f"| {line['library']} | {m} | {line['setup_s']:.2f} | {line['query_s']:.2f} | {line['peak_mib']} | "
                f"{worst:.1e} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
