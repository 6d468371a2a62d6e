"""Check the libraries' scores against a float64 solution, row by row.

    python -m benchmarks check_libraries small                                   everyone, p = 1,960, dense solve
    python -m benchmarks check_libraries full --weights theta.pt --tables *.npz  tables of softmax regression
    python -m benchmarks check_libraries network                                 kronfluence and upweight's EKFAC

The reference of the first two shares no code with the peers nor with upweight: the Hessian of softmax regression
written out. The last establishes kronfluence's sign and scale and that its tables are upweight's but for the labels
that it draws: with more draws they come together.
The error of a row is ||scores - reference|| / ||reference|| over the training examples.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.judging import row_cosines, row_errors
from benchmarks.libraries import library, names
from benchmarks.libraries.base import measured
from benchmarks.measuring import silence
from benchmarks.problems import SOFTMAX, Task, linear_model, trained
from experiments import commands

KINDS = ("without_penalty", "with_penalty")


class Reference:
    """Softmax regression in float64 at theta (c, d): its Hessian and the scores that follow from it."""

    def __init__(self, X, y, theta, l2):
        self.X, self.y, self.theta, self.l2 = X.double(), y, theta.double(), l2
        self.P = (self.X @ self.theta.T).softmax(1)

    def residuals(self, X, y):
        """Gradients with respect to the outputs: an example's gradient is residual (x) input."""
        return (X @ self.theta.T).softmax(1) - torch.nn.functional.one_hot(y, len(self.theta))

    def gradients(self, X, y):
        return self.residuals(X.double(), y)[:, :, None] * X.double()[:, None, :]

    def dense(self):
        """The Hessian, (p, p)."""
        c, d = self.theta.shape
        H = torch.zeros(c, d, c, d, dtype=torch.float64)
        for i in range(c):
            for j in range(c):
                w = self.P[:, i] * (float(i == j) - self.P[:, j])
                H[i, :, j] = self.X.T @ (w[:, None] * self.X) / len(self.X)
        return H.reshape(c * d, c * d) + self.l2 * torch.eye(c * d, dtype=torch.float64)

    def product(self, V, block=8):
        """Hessian times V (k, c, d), a few vectors at a time: all at once does not fit for many."""
        n, (c, d) = len(self.X), self.theta.shape
        out = []
        for v in V.split(block):
            Z = (self.X @ v.reshape(-1, d).T).view(n, -1, c)
            P = self.P[:, None]
            Z = P * (Z - (P * Z).sum(2, keepdim=True))
            out.append((Z.view(n, -1).T @ self.X).view(-1, c, d) / n)
        return torch.cat(out) + self.l2 * V

    def conjugate_gradients(self, b, rtol=1e-7, steps=500):
        """H^-1 b for (k, c, d), preconditioned by the eigenvectors of X^T X; float64."""
        values, vectors = torch.linalg.eigh(self.X.T @ self.X / len(self.X))
        scale = 1 / (values.clamp(min=0) * (self.P * (1 - self.P)).mean() + self.l2)
        x, r, p, rz = torch.zeros_like(b), b.clone(), None, None
        for _ in range(steps):
            z = ((r @ vectors) * scale) @ vectors.T
            previous, rz = rz, (r * z).sum((1, 2), keepdim=True)
            p = z if p is None else z + rz / previous * p
            Hp = self.product(p)
            alpha = rz / (p * Hp).sum((1, 2), keepdim=True)
            x, r = x + alpha * p, r - alpha * Hp
            if (r.flatten(1).norm(dim=1) <= rtol * b.flatten(1).norm(dim=1)).all():
                return x
        raise RuntimeError("the reference did not converge")

    def scores(self, solution, penalty):
        """-solution . (gradient of train_i [+ l2 theta]), (m, n), for solution = H^-1 g_test (m, c, d)."""
        R = self.residuals(self.X, self.y)
        scores = torch.stack([((self.X @ s.T) * R).sum(1) for s in solution])
        if penalty:
            scores = scores + self.l2 * (solution * self.theta).sum((1, 2))[:, None]
        return -scores


def report(name: str, scores: torch.Tensor, references: dict[str, torch.Tensor]) -> None:
    """Errors of one table against both references, with and without the penalty in the training gradient."""
    line: dict[str, object] = {"table": name}
    for kind, reference in references.items():
        e = torch.from_numpy(row_errors(scores, reference))
        line[kind] = {"worst": float(f"{e.max():.2e}"), "median": float(f"{e.median():.2e}")}
    print(json.dumps(line), flush=True)


def fit(X: torch.Tensor, y: torch.Tensor, l2: float, steps: int = 30) -> torch.Tensor:
    """The optimum by Newton's method, (10, d) in float64."""
    theta = torch.zeros(10, X.shape[1], dtype=torch.float64)
    for _ in range(steps):
        r = Reference(X, y, theta, l2)
        gradient = r.residuals(r.X, y).T @ r.X / len(X) + l2 * theta
        if gradient.norm() < 1e-12:
            break
        theta = theta - torch.linalg.solve(r.dense(), gradient.flatten()).view_as(theta)
    return theta


def halved(X: torch.Tensor) -> torch.Tensor:
    """Images of 14 x 14 pixels."""
    return torch.nn.functional.avg_pool2d(X.view(-1, 28, 28), 2).flatten(1)


def small(options: argparse.Namespace) -> None:
    """Everyone on 14 x 14 images."""
    X, y, (X_test, y_test) = SOFTMAX.load(options.m, options.rows or 2000, options.data)
    X, X_test = halved(X), halved(X_test)
    # The reference is taken at the float32 weights that the peers get.
    theta = fit(X, y, SOFTMAX.l2).float()
    reference = Reference(X, y, theta, SOFTMAX.l2)
    gradients = reference.gradients(X_test, y_test)
    solution = torch.linalg.solve(reference.dense(), gradients.flatten(1).T).T.view_as(gradients)
    references = {kind: reference.scores(solution, kind == "with_penalty") for kind in KINDS}
    task = Task(linear_model(theta), X, y, SOFTMAX.l2)
    for name in names("softmax") if options.libraries is None else options.libraries:
        asked = library(name, "softmax")
        with contextlib.redirect_stderr(io.StringIO()):
            result = measured(asked, task, (X_test, y_test))
        report(f"{name} {result.setup_s:.2f} + {result.query_s:.2f} s {asked}", result.scores, references)


def full(options: argparse.Namespace) -> None:
    """Tables of the softmax benchmark, whose test points start one list: the longest reference serves all."""
    tables = {name: torch.from_numpy(np.load(name)["scores"]) for name in options.tables}
    X, y, test = SOFTMAX.load(max(len(t) for t in tables.values()), options.rows, options.data)
    reference = Reference(X, y, trained(options.weights, "fig2_linear").float(), SOFTMAX.l2)
    solution = reference.conjugate_gradients(reference.gradients(*test))
    for name, scores in tables.items():
        asked = solution[: len(scores)]
        report(name, scores, {kind: reference.scores(asked, kind == "with_penalty") for kind in KINDS})


def network(options: argparse.Namespace, damping: float = 0.01) -> None:
    """kronfluence's EKFAC on a trained perceptron 196-32-10, labels drawn 1 to 1,000 times: lowest, highest row."""
    import upweight as uw
    from benchmarks.networks import build_mlp, train_mlp

    X, y, (X_test, y_test) = SOFTMAX.load(options.m, options.rows or 200, options.data)
    X, X_test = halved(X), halved(X_test)
    model = train_mlp(build_mlp((196, 32, 10)), X, y, epochs=100).eval()
    problem = uw.Problem(model, torch.nn.functional.cross_entropy, (X, y))
    ours = uw.Influence(problem, curvature=uw.EKFAC(problem, damping)).on_loss((X_test, y_test)).values
    task = Task(model, X, y, damping=damping)
    for draws in (1, 10, 100, 1000):
        asked = replace(library("kronfluence", "mlp"), draws=draws, eigenvalues=1000)  # type: ignore[type-var]
        found = measured(asked, task, (X_test, y_test)).scores
        columns = {
            "cosine": row_cosines(found, ours),
            "slope": ((found * ours).sum(1) / ours.square().sum(1)).numpy(),
            "error": row_errors(found, ours),
        }
        ranges = {name: [round(float(v.min()), 5), round(float(v.max()), 5)] for name, v in columns.items()}
        print(json.dumps({"draws": draws, **ranges}), flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    """Check, print."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("what", choices=("small", "full", "network"))
    parser.add_argument("--tables", nargs="+", default=[])
    parser.add_argument("--weights", type=Path, help="(10, 784) tensor file, the optimum")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--libraries", nargs="*")
    parser.add_argument("--data", type=Path, help="mnist.npz, if not that of UPWEIGHT_DATA_DIR")
    options = parser.parse_args(argv)
    silence()
    {"small": small, "full": full, "network": network}[options.what](options)
