"""Steps of conjugate gradients on trained networks, by preconditioner and damping.

    python -m benchmarks preconditioners [--n 500] [--epochs 30] [--network MLP]

Gauss-Newton + damping of the paper's CNN (p = 2,616) and of an MLP 784-512-256-10 (p = 535,818), trained by Adam on the
first n digits, for 4 test digits to a residual of 1e-4: the most steps of a row. Seconds include the preconditioner's
set-up: `EKFAC` takes two passes (once for all dampings), `Nystrom` as many products as its rank, `Jacobi` is the
diagonal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from benchmarks.measuring import timed
from benchmarks.networks import build_mlp
from benchmarks.problems import SOFTMAX
from experiments import commands, fig2_cnn
from upweight.linalg.factorizations import DiagonalFactor
from upweight.network.output_curvature import convex_roots

LIMIT = 2000


@dataclass(frozen=True, eq=False)
class Jacobi:
    """diag(values) + damping: of a curvature what conjugate gradients ask their preconditioner for."""

    values: torch.Tensor
    damping: float
    closed = True

    @property
    def p(self) -> int:
        """The number of parameters."""
        return len(self.values)

    def factor(self, dtype: torch.dtype | None = None) -> DiagonalFactor:
        """The inverse."""
        return DiagonalFactor((self.values + self.damping).to(dtype or self.values.dtype))


def diagonal(problem: uw.Problem) -> torch.Tensor:
    """Of the Gauss-Newton matrix, from Jacobians of a few examples at a time."""
    total = torch.zeros(problem.p)
    for rows in torch.arange(problem.n).split(4):
        batch = problem.train_batch(rows)
        V = convex_roots(problem.evaluation, problem.theta, batch).transpose(0, 1)
        total += problem.layers.layered.jacobians(batch, V).square().sum((0, 1))
    return total / problem.n


def trained(model: nn.Module, X: torch.Tensor, y: torch.Tensor, epochs: int) -> nn.Module:
    """By Adam, batches of 100."""
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(X)).split(100):
            optimiser.zero_grad()
            F.cross_entropy(model(X[rows]), y[rows]).backward()
            optimiser.step()
    return model


def helpers(problem: uw.Problem) -> Iterator[tuple[float, str, Any]]:
    """The preconditioners by damping."""
    tenth = problem.subset(torch.arange(0, problem.n, 10))
    ekfac, values = uw.EKFAC(problem), diagonal(problem)
    for damping in (1e-2, 1e-3, 1e-4):
        yield damping, "none", None
        yield damping, "Jacobi", Jacobi(values, damping)
        yield damping, "EKFAC", ekfac.damped(damping)
        yield damping, "Nystrom 100 of all rows", uw.Nystrom(uw.GaussNewton(problem, damping), rank=100)
        yield damping, "Nystrom 100 of a tenth", uw.Nystrom(uw.GaussNewton(tenth, damping), rank=100)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "CNN": (fig2_cnn.build, (-1, 1, 28, 28)),
    "MLP": (build_mlp, (-1, 784)),
}


def main(argv: Sequence[str] | None = None) -> None:
    """The table."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--data", type=Path, help="mnist.npz, if not that of UPWEIGHT_DATA_DIR")
    parser.add_argument("--n", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--network", choices=NETWORKS, help="only this one")
    options = parser.parse_args(argv)
    X, y, (X_test, y_test) = SOFTMAX.load(4, options.n, options.data)
    print("| network | damping | preconditioner | most steps | seconds |\n|---|---|---|---|---|")
    for name, (build, shape) in NETWORKS.items():
        if options.network not in (None, name):
            continue
        data = X.view(shape), y
        torch.manual_seed(0)
        problem = uw.Problem(trained(build().eval(), *data, options.epochs), F.cross_entropy, data)
        rows = problem.test_gradients((X_test.view(shape), y_test))
        for damping, label, helper in helpers(problem):
            curvature = uw.GaussNewton(problem, damping)
            solver = uw.ConjugateGradient(rtol=1e-4, max_steps=LIMIT, preconditioner=helper)
            solution, seconds = timed(lambda: solver.prepare(curvature)(rows, throw=False))  # noqa: B023
            steps = f"{int(solution.steps.max())}{'' if solution.ok else ' (not converged)'}"
            print(f"| {name} | {damping:.0e} | {label} | {steps} | {seconds:.1f} |", flush=True)
