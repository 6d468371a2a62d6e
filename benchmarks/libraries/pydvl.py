"""pyDVL: block conjugate gradients for all test points at once.

Its `SecondOrderMode.GAUSS_NEWTON` is not measured: it is not the Gauss-Newton matrix but the mean outer product of
gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.libraries.base import Answers, Library, equal_batches, loader, rows_of
from benchmarks.problems import Task


@dataclass(frozen=True)
class Pydvl(Library):
    """`CgInfluence`: the Hessian + (l2 + damping) on the whole diagonal, by block conjugate gradients.

    Its loss sees outputs and labels only, so the penalty goes in as `regularization` and is missing from the
    training gradient. Three of its ways need a setting that its defaults do not have:
    - It stops when ||r|| <= rtol^2 ||b|| (not rtol ||b||), so it is given the square root. The default, 1e-4,
      asks for 1e-8, which float32 cannot reach.
    - maxiter is by default 10 times the number of test points (len(rhs)): 10 steps for one.
    - Batches are averaged with equal weights, so they must have equal sizes.
    """

    package = "pydvl"
    rtol: float = 5e-4
    maxiter: int = 200
    rank: int = 0
    """Of the repaired preconditioner; 0 is none, as shipped."""
    batch: int = 5500

    def prepare(self, task: Task) -> Answers:
        from pydvl.influence.torch import CgInfluence

        influence = CgInfluence(
            task.network(),
            F.cross_entropy,
            regularization=task.l2 + task.damping,
            rtol=self.rtol**0.5,
            atol=1e-10,
            maxiter=self.maxiter,
            solve_simultaneously=True,
            preconditioner=_nystroem(self.rank) if self.rank else None,
        )
        # Fitting computes the preconditioner, and nothing if there is none.
        influence = influence.fit(loader(task.X, task.y, equal_batches(task.n, self.batch)))

        def answers(X_test: Tensor, y_test: Tensor) -> Tensor:
            factors = influence.influence_factors(X_test, y_test)
            # In blocks: all per-example gradients at once are 1.7 GB and slower.
            parts = [
                influence.influences_from_factors(factors, *rows) for rows in rows_of(task.X, task.y, 1000)
            ]
            return -torch.cat(parts, dim=1).double()

        return answers


def _nystroem(rank: int) -> Any:
    """pyDVL's Nystroem preconditioner, repaired.

    In pyDVL 0.10.0 `Preconditioner.fit` returns what `_fit` returns, which is None, and `CgInfluence` then
    goes on without a preconditioner and without a word.
    """
    from pydvl.influence.torch.preconditioner import NystroemPreconditioner

    class Repaired(NystroemPreconditioner):
        def fit(self, operator: Any, regularization: float | None = None) -> Any:
            super().fit(operator, regularization)
            return self

    return Repaired(rank=rank)


LIBRARIES = {
    "pydvl": {"softmax": Pydvl(), "cnn": Pydvl(batch=50)},
    "pydvl-repaired": {"softmax": Pydvl(rank=50), "cnn": Pydvl(rank=50, batch=50)},
}
