"""Exact scores of networks, which tables are judged by; they are kept and found by the next run."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from experiments import fig2_cnn

RESIDUAL = 1e-2
"""To which residual scores by conjugate gradients are solved: no cosine sees it."""


def kept(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """An array from its file, or made and written."""
    if not path.exists():
        began = time.perf_counter()
        np.save(path, make())
        print(f"{path.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return np.load(path)


def solved_in_subspace(
    product: Callable[[torch.Tensor], torch.Tensor], near: torch.Tensor, v: torch.Tensor, steps: int = 100
) -> torch.Tensor | None:
    """A^-1 v to a residual of 1e-8 by least squares in a growing space, or None if `steps` blocks do not suffice.

    `near` is the Cholesky factor of a matrix close to A. All rows of v share the space.
    """
    space = image = v.new_zeros(0, v.shape[1])
    left = v
    for _ in range(steps):
        new = torch.cholesky_solve(left.T, near).T
        for _ in range(2):  # once leaves too much of the space in it
            new = new - (new @ space.T) @ space
        new = torch.linalg.qr(new.T)[0].T
        space, image = torch.cat([space, new]), torch.cat([image, product(new)])
        found = torch.linalg.lstsq(image.T, v.T).solution.T
        left = v - found @ image
        if bool((left.norm(dim=1) <= 1e-8 * v.norm(dim=1)).all()):
            return found @ space
    return None


class ExactReferences:
    """Exact scores of a small network in float64, for every matrix and convention that a table may be in.

    The Gauss-Newton matrix is formed and solved directly. The Hessian takes p products to form, hours for all digits:
    where it is positive definite the Gauss-Newton matrix is close enough for some twenty products per test digit.
    """

    def __init__(self, model: nn.Module, data: Any, out: Path) -> None:
        wide = model.double()
        self.problem = uw.Problem(wide, F.cross_entropy, (data[0].double(), data[1]))
        self.penalty = fig2_cnn.penalties(wide).double()
        self.out = out
        self.gradients = self.problem.train_gradients(torch.arange(self.problem.n))

    def file(self, words: str) -> Path:
        """Where something about this problem is kept."""
        return self.out / f"{words}-{self.problem.fingerprint()}.npy"

    def matrix(self, gauss_newton: bool) -> torch.Tensor:
        """The mean over examples, without penalty and damping."""
        curvature = (uw.GaussNewton if gauss_newton else uw.Hessian)(self.problem)
        path = self.file(type(curvature).__name__)
        return torch.from_numpy(kept(path, lambda: curvature.matrix(torch.float64).numpy()))

    def solve(self, v: torch.Tensor, added: torch.Tensor, gauss_newton: bool) -> torch.Tensor:
        """A^-1 v, A the mean over examples with `added` on the diagonal."""
        near = self.matrix(gauss_newton=True) + added.diag()
        found = None
        if not gauss_newton and not self.file("Hessian").exists():
            product = uw.Hessian(self.problem).operator()
            found = solved_in_subspace(
                lambda rows: product(rows) + rows * added, torch.linalg.cholesky(near), v
            )
        if found is None:
            A = near if gauss_newton else self.matrix(gauss_newton=False) + added.diag()
            found = torch.linalg.solve(A, v.T).T
        return found

    def scores(
        self, test: Any, damping: float, *, gauss_newton: bool = False, penalty_in_loss: bool = True
    ) -> np.ndarray:
        """-v^T A^-1 g; the penalty in A on weights and in g, or on A's whole diagonal and not in g."""
        added, gradients = torch.full_like(self.penalty, fig2_cnn.L2 + damping), self.gradients
        if penalty_in_loss:
            added, gradients = self.penalty + damping, gradients + self.penalty * self.problem.theta
        v = self.problem.test_gradients((test[0].double(), test[1]))
        kind = f"{'gn' if gauss_newton else 'hessian'}-{'weights' if penalty_in_loss else 'all'}"
        path = self.file(f"{kind}-{damping:g}-{len(v)}")
        return kept(path, lambda: -(self.solve(v, added, gauss_newton) @ gradients.T).numpy())


def gauss_newton_scores(problem: uw.Problem, test: Any, damping: float, out: Path) -> np.ndarray:
    """Scores by conjugate gradients with the Gauss-Newton matrix + damping."""

    def solved() -> np.ndarray:
        tenth = torch.linspace(0, problem.n - 1, min(problem.n, max(2000, problem.n // 10))).long()
        helper = uw.Nystrom(uw.GaussNewton(problem.subset(tenth), damping), rank=100)
        solver = uw.ConjugateGradient(rtol=RESIDUAL, preconditioner=helper)
        exact = uw.Influence(problem, curvature=uw.GaussNewton(problem, damping), solver=solver)
        return exact.on_loss(test).values.numpy()

    return kept(out / f"exact-{problem.fingerprint()}-{damping:g}-{len(test[1])}.npy", solved)
