"""What single steps cost on softmax regression (n = 55,000, p = 7,840) and on a small CNN.

    python benchmarks/costs.py --theta theta.pt --data mnist.npz [--self]

Prints one line per figure: the Hessian product as a multiple of one gradient pass over the same data, a LiSSA step,
100 queries after `Exact` has factorised, self-influence of all examples (with --self).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import peers
import torch
from torch import nn

import upweight as uw

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import fig2_cnn


def best(function: Callable[[], object], times: int = 5) -> float:
    """The least of several times in seconds, after one call to warm up."""
    function()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def product_ratio(problem: uw.Problem, name: str) -> None:
    """Hessian products for one row and per row of four, in gradient passes."""
    gradient = best(problem.gradient, 3)
    for k in (1, 4):
        product = problem.operator()
        rows = torch.randn(k, problem.p, dtype=problem.dtype)
        for _ in range(2):  # from the second product on graphs are kept
            product(rows)
        ratio = best(lambda product=product, rows=rows: product(rows), 2) / gradient / k  # type: ignore[misc]
        print(
            f"{name}: gradient {gradient:.3f} s, Hessian product {ratio:.2f}x per row at k = {k}", flush=True
        )


def main() -> None:
    """All figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--theta", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--self", action="store_true", help="also self-influence of all examples")
    options = parser.parse_args()
    theta = torch.load(options.theta).double()
    X, y, X_test, y_test = peers.load(100, path=options.data)
    linear = uw.LinearProblem(X, y, theta, loss=uw.Softmax(), l2=0.01)

    gradient = best(lambda: linear.at(linear.theta).gradient())  # anew: a problem keeps its own
    for k in (1, 16):
        product = linear.operator(dtype=torch.float32)
        rows = torch.randn(k, linear.p)
        ms = 1e3 * best(lambda product=product, rows=rows: product(rows))  # type: ignore[misc]
        print(
            f"closed form: float64 gradient {1e3 * gradient:.0f} ms, float32 product {ms:.1f} ms at k = {k}",
            flush=True,
        )

    lissa = uw.LiSSA(depth=2000, repeats=10, scale=50.0).prepare(uw.Hessian(linear))
    row = linear.test_gradients((X_test[:1], y_test[:1]))
    seconds = best(lambda: lissa(row), 2)
    print(
        f"LiSSA: {1e3 * seconds / 2000:.3f} ms per step of ten repeats, {0.1e3 * seconds / 2000:.4f} ms each",
        flush=True,
    )

    loss = nn.functional.cross_entropy
    product_ratio(
        uw.Problem(fig2_cnn.build().eval(), loss, (X[:5500].view(-1, 1, 28, 28), y[:5500]), l2=0.001),
        "CNN, n = 5,500",
    )
    product_ratio(uw.Problem(peers.linear_model(theta), loss, (X, y), l2=0.01), "softmax Problem, n = 55,000")

    if options.self:
        exact = uw.Influence(linear, solver=uw.Exact())
        began = time.perf_counter()
        exact.solve(row)
        print(f"Exact: set-up {time.perf_counter() - began:.1f} s", flush=True)
        print(f"Exact: 100 queries {best(lambda: exact.on_loss((X_test, y_test)), 2):.2f} s", flush=True)
        began = time.perf_counter()
        exact.on_self()
        print(f"self-influence of {linear.n}: {time.perf_counter() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
