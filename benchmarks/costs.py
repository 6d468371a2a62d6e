"""What single steps cost on softmax regression (n = 55,000, p = 7,840) and on a small CNN.

    python -m benchmarks costs [--self]

Prints one line per figure: the Hessian product as a multiple of one gradient pass over the same data, a LiSSA step,
100 queries after `Exact` has factorised, self-influence of all examples (with --self). `--weights` is what the
experiment fig2_linear keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

import upweight as uw
from benchmarks.measuring import best, timed
from benchmarks.problems import SOFTMAX, Test, linear_model, trained
from experiments import commands, fig2_cnn


def product_ratio(problem: uw.Problem, name: str) -> None:
    """Hessian products for one row and per row of four, in gradient passes."""
    gradient = best(problem.gradient, 3)
    for k in (1, 4):
        product = problem.hessian.product()
        rows = torch.randn(k, problem.p, dtype=problem.dtype)
        for _ in range(2):  # from the second product on graphs are kept
            product(rows)
        ratio = best(lambda product=product, rows=rows: product(rows), 2) / gradient / k  # type: ignore[misc]
        print(
            f"{name}: gradient {gradient:.3f} s, Hessian product {ratio:.2f}x per row at k = {k}", flush=True
        )


def closed_form(linear: uw.LinearProblem) -> None:
    """Products of the closed form beside its gradient."""
    gradient = best(lambda: linear.at(linear.theta).gradient())  # anew: a problem keeps its own
    for k in (1, 16):
        product = linear.hessian.product(torch.float32)
        rows = torch.randn(k, linear.p)
        ms = 1e3 * best(lambda product=product, rows=rows: product(rows))  # type: ignore[misc]
        print(
            f"closed form: float64 gradient {1e3 * gradient:.0f} ms, float32 product {ms:.1f} ms at k = {k}",
            flush=True,
        )


def lissa_step(linear: uw.LinearProblem, row: torch.Tensor) -> None:
    """A step of LiSSA."""
    lissa = uw.LiSSA(depth=2000, repeats=10, scale=50.0).prepare(uw.Hessian(linear))
    ms = 1e3 * best(lambda: lissa(row), 2) / 2000
    print(f"LiSSA: {ms:.3f} ms per step of ten repeats, {ms / 10:.4f} ms each", flush=True)


def factorised(linear: uw.LinearProblem, row: torch.Tensor, test: Test) -> None:
    """Queries and self-influence with `Exact`."""
    exact = uw.Influence(linear, solver=uw.Exact())
    print(f"Exact: set-up {timed(exact.solve, row)[1]:.1f} s", flush=True)
    print(f"Exact: 100 queries {best(lambda: exact.on_loss(test), 2):.2f} s", flush=True)
    print(f"self-influence of {linear.n}: {timed(exact.on_self)[1]:.1f} s", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """All figures."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--weights", type=Path, help="(10, 784) tensor file, the optimum")
    parser.add_argument("--data", type=Path, help="mnist.npz, if not that of UPWEIGHT_DATA_DIR")
    parser.add_argument("--rows", type=int, help="only the first rows of the training set")
    parser.add_argument("--self", action="store_true", help="also self-influence of all examples")
    options = parser.parse_args(argv)
    theta = trained(options.weights, "fig2_linear").double()
    X, y, test = SOFTMAX.load(100, options.rows, options.data)
    linear = uw.LinearProblem(X, y, theta, loss=uw.Softmax(), l2=SOFTMAX.l2)
    row = linear.test_gradients((test[0][:1], test[1][:1]))
    closed_form(linear)
    lissa_step(linear, row)
    loss, images = nn.functional.cross_entropy, X[:5500].view(-1, 1, 28, 28)
    cnn = uw.Problem(fig2_cnn.build().eval(), loss, (images, y[:5500]), l2=0.001)
    product_ratio(cnn, f"CNN, n = {cnn.n:,}")
    softmax = uw.Problem(linear_model(theta.float()), loss, (X, y), l2=SOFTMAX.l2)
    product_ratio(softmax, f"softmax Problem, n = {softmax.n:,}")
    if options.self:
        factorised(linear, row, test)
