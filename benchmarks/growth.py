"""How seconds grow with n, p, m and processes, beside the cost model of docs/scale.md.

    python -m benchmarks growth
    python -m benchmarks growth --small         seconds, to see that it runs

Three sizes each. Printed is the slope of log seconds over log size, and that of the model's operations at the same
sizes. One thread; seconds are processor time, the least of two. Networks are perceptrons h-h-h-10 on random numbers
(p about 2 h^2), EKFAC with one draw; the linear problem is logistic regression. Processes are jobs of torchrun, and
what is compared is each process's own processor time: with more processes than cores they share them.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from benchmarks import measuring
from benchmarks.measuring import best
from experiments import commands
from upweight.runtime.distributed import gather_objects, rank

OUTPUTS = 10
EIGEN = 25
"""Operations of the eigenvectors of a symmetric (r, r) matrix over r^3, about."""


@dataclass(frozen=True)
class Series:
    """Something that takes seconds, at three sizes along one axis, and its operations according to the model."""

    what: str
    axis: str
    sizes: Sequence[int]
    seconds: Callable[[int], float]
    operations: Callable[[int], float]

    def line(self) -> str:
        """Of the table."""
        taken = [self.seconds(size) for size in self.sizes]
        slope = _slope(self.sizes, taken)
        model = _slope(self.sizes, [self.operations(size) for size in self.sizes])
        shown = ", ".join(f"{one:.2f}" for one in taken)
        sizes = ", ".join(f"{size:,}" for size in self.sizes)
        off = f"{(slope - model) / abs(model):+.0%}"
        return f"| {self.what} | {self.axis} = {sizes} | {shown} | {slope:.2f} | {model:.2f} | {off} |"


def _slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def least(work: Callable[[], Any]) -> float:
    """Processor seconds, the least of two."""
    return best(work, 2, warm=False, clock=time.process_time)


# ------------------------------------------------------------------------------------------------------- linear


def linear(n: int, d: int) -> uw.LinearProblem:
    """Logistic regression that has taken its pass for the derivatives."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, d, generator=generator)
    problem = uw.LinearProblem(
        X, torch.arange(n) % 2, torch.randn(d, generator=generator) / d, loss=uw.Logistic()
    )
    problem.gradient()
    return problem


def linear_scores(n: int, d: int, m: int) -> float:
    """All scores from solved right-hand sides."""
    problem, rows = linear(n, d), torch.randn(m, d, dtype=torch.float64)
    return least(lambda: [None for _ in problem.products(rows)])


def linear_matrix(n: int, d: int) -> float:
    """X^T W X."""
    problem = linear(n, d)
    return least(problem.hessian.matrix)


# ----------------------------------------------------------------------------------------------------- networks


def network(n: int, h: int) -> uw.Problem:
    """A perceptron on random numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(h, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, OUTPUTS))
    return uw.Problem(model, F.cross_entropy, (torch.randn(n, h), torch.arange(n) % OUTPUTS))


def layers(h: int) -> list[tuple[int, int]]:
    """Outputs and inputs of each layer, the intercept's column included."""
    return [(h, h + 1), (h, h + 1), (OUTPUTS, h + 1)]


def parameters(h: int) -> int:
    """p."""
    return sum(r * s for r, s in layers(h))


def factors(n: int, h: int) -> float:
    """EKFAC's two passes, and the eigenvectors between them."""
    problem = network(n, h)
    assert problem.layers.together
    return least(lambda: uw.EKFAC(problem, 0.01, samples=1).factor())


def factor_operations(n: int, h: int) -> float:
    """Two forward and backward passes, the moments, their eigenvectors, rotations and squares."""
    passes = 2 * 6 * n * parameters(h)
    moments = sum(2 * n * (r * r + s * s) for r, s in layers(h))
    rotations = sum(2 * n * (r * r + s * s) + 2 * n * r * s for r, s in layers(h))
    return passes + moments + rotations + sum(EIGEN * (r**3 + s**3) for r, s in layers(h))


def network_scores(n: int, h: int, m: int) -> float:
    """All scores from solved right-hand sides."""
    problem, rows = network(n, h), torch.randn(m, parameters(h))
    assert problem.layers.together
    return least(lambda: [None for _ in problem.products(rows)])


def network_score_operations(n: int, h: int, m: int) -> float:
    """A forward and a backward pass, and for every pair left^T S right."""
    return 6 * n * parameters(h) + 2 * n * m * parameters(h)


def curvature(n: int, h: int, k: int) -> float:
    """A product of the Gauss-Newton matrix with k vectors, its graphs kept."""
    problem, rows = network(n, h), torch.randn(k, parameters(h))
    product = problem.gauss_newton.product()
    product(rows)
    product(rows)
    return least(lambda: product(rows))


def curvature_operations(n: int, h: int, k: int) -> float:
    """Per vector a product with the Jacobian and one with its transpose, two passes each."""
    return k * 8 * n * parameters(h)


# ----------------------------------------------------------------------------------------------------- processes


def job(out: Path, n: int, h: int, m: int) -> None:
    """One process of a job: factors and scores, and everybody's processor seconds in a file."""
    problem, rows = network(n, h), torch.randn(m, parameters(h), generator=torch.Generator().manual_seed(0))
    assert problem.layers.together
    took = least(
        lambda: (uw.EKFAC(problem, 0.01, samples=1).factor(), [None for _ in problem.products(rows)])
    )
    everyone = gather_objects(took)
    if rank() == 0:
        out.write_text(str(max(everyone)))


@functools.cache
def by_processes(count: int, n: int, h: int, m: int) -> float:
    """The largest processor time of one of `count` processes."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds"
        command = measuring.job(count, ["growth", f"--job={out}", f"--sizes={n},{h},{m}"])
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=one_thread, capture_output=True)
        return float(out.read_text())


def process_operations(count: int, n: int, h: int, m: int) -> float:
    """A share of the passes; the eigenvectors are everybody's."""
    alone = sum(EIGEN * (r**3 + s**3) for r, s in layers(h))
    return (factor_operations(n, h) - alone + network_score_operations(n, h, m)) / count + alone


def everything(few: int) -> Iterator[Series]:
    """The table's lines; sizes are divided by `few`."""
    n, h = 200_000 // few, 256
    ns, ds, ms = [n, 2 * n, 4 * n], [64, 128, 256], [50, 100, 200]
    what = "linear, scores"
    yield Series(what, "n", ns, lambda i: linear_scores(i, 64, 100), lambda i: 2 * i * 64 * 100)
    yield Series(what, "p", ds, lambda i: linear_scores(n, i, 100), lambda i: 2 * n * i * 100)
    yield Series(what, "m", ms, lambda i: linear_scores(n, 128, i), lambda i: 2 * n * 128 * i)
    yield Series("linear, matrix", "n", ns, lambda i: linear_matrix(i, 128), lambda i: 2 * i * 128**2)
    yield Series(
        "linear, matrix", "p", [128, 256, 512], lambda i: linear_matrix(n, i), lambda i: 2 * n * i**2
    )
    n = 16_000 // few
    ns, hs, ms = [n, 2 * n, 4 * n], [128, 256, 512], [50, 100, 200]
    yield Series("EKFAC, factors", "n", ns, lambda i: factors(i, h), lambda i: factor_operations(i, h))
    yield Series("EKFAC, factors", "h", hs, lambda i: factors(n, i), lambda i: factor_operations(n, i))
    n = 4_000 // few
    ns = [n, 2 * n, 4 * n]
    what = "EKFAC, scores"
    yield Series(
        what, "n", ns, lambda i: network_scores(i, h, 100), lambda i: network_score_operations(i, h, 100)
    )
    yield Series(
        what, "h", hs, lambda i: network_scores(n, i, 100), lambda i: network_score_operations(n, i, 100)
    )
    yield Series(
        what, "m", ms, lambda i: network_scores(n, h, i), lambda i: network_score_operations(n, h, i)
    )
    what = "Gauss-Newton product"
    yield Series(what, "n", ns, lambda i: curvature(i, h, 4), lambda i: curvature_operations(i, h, 4))
    yield Series(what, "h", hs, lambda i: curvature(n, i, 4), lambda i: curvature_operations(n, i, 4))
    yield Series(what, "k", [4, 8, 16], lambda i: curvature(n, h, i), lambda i: curvature_operations(n, h, i))
    yield Series(
        "EKFAC, a process's own work",
        "processes",
        [1, 2, 4],
        lambda i: by_processes(i, 2 * n, h, 100),
        lambda i: process_operations(i, 2 * n, h, 100),
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The table, or this process's part of a job."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", help="lines whose name begins so")
    parser.add_argument("--job", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--sizes", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    if options.job:
        job(options.job, *map(int, options.sizes.split(",")))
        return
    print("| | sizes | s | slope | model's | off |\n|---|---|---|---|---|---|")
    for series in everything(20 if options.small else 1):
        if series.what.startswith(options.only or ""):
            print(series.line(), flush=True)
