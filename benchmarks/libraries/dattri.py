"""dattri: conjugate gradients, the dense Hessian, and Arnoldi."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.libraries.base import Answers, Library, loader
from benchmarks.problems import Task


@dataclass(frozen=True)
class ConjugateGradients(Library):
    """`IFAttributorCG`: the penalty as `regularization`, to which the damping is added.

    Its loss sees the parameters, so `penalty_in_train_gradient=True` puts the penalty into it, which is our
    problem exactly. For softmax regression that is not the default because it makes one query 2.3 times
    slower (medians of three fresh processes: 8.5 s and 3.7 s), which is our wish and not dattri's doing. It has a
    `tol`, but no code reads it: the number of steps is all there is to choose. 40 serve the worst row of 16; 36 do not.

    Of the CNN one test point at a time: all at once take no less time, and memory, 0.15 MiB per training digit, for
    each of them. Steps by trial: on 500 digits the worst row of 4 is off by 6e-2 after 30, by 1e-3 after 40, and still
    by 4e-4 after 150.
    """

    package = "dattri"
    max_iter: int = 40
    mode: str = "rev-rev"
    penalty_in_train_gradient: bool = False
    test_batch: int | None = None

    def prepare(self, task: Task) -> Answers:
        from dattri.algorithm.influence_function import IFAttributorCG

        added = task.damping + (0.0 if self.penalty_in_train_gradient else task.l2)
        attributor = IFAttributorCG(
            _question(task, self.penalty_in_train_gradient),
            max_iter=self.max_iter,
            mode=self.mode,
            regularization=added,
        )
        return _cached(attributor, task, self.test_batch)


@dataclass(frozen=True)
class Explicit(Library):
    """`IFAttributorExplicit`: the dense Hessian by `torch.func.hessian`: 4 p n c bytes and more."""

    package = "dattri"
    penalty_in_train_gradient = True

    def prepare(self, task: Task) -> Answers:
        from dattri.algorithm.influence_function import IFAttributorExplicit

        return _cached(IFAttributorExplicit(_question(task)), task)


@dataclass(frozen=True)
class Arnoldi(Library):
    """`IFAttributorArnoldi`: the inverse on the Krylov space of one random vector."""

    package = "dattri"
    penalty_in_train_gradient = True
    dim: int = 200

    def prepare(self, task: Task) -> Answers:
        from dattri.algorithm.influence_function import IFAttributorArnoldi

        attributor = IFAttributorArnoldi(_question(task), proj_dim=self.dim, max_iter=self.dim + 1)
        return _cached(attributor, task)


def _question(task: Task, penalty_in_loss: bool = True) -> Any:
    """The loss of inputs; the penalty, if it is part of it, is on weights alone."""
    from dattri.task import AttributionTask

    model, shape = task.network(), task.X.shape[1:]

    def cross_entropy(params: Any, data: Any) -> Tensor:
        x, y = data
        # reshape: one example arrives without its batch axis, and its label without any axis.
        outputs = torch.func.functional_call(model, params, (x.reshape(-1, *shape),))
        return F.cross_entropy(outputs, y.reshape(-1))

    def penalised(params: Any, data: Any) -> Tensor:
        weights = sum(value.square().sum() for value in params.values() if value.ndim > 1)
        return cross_entropy(params, data) + 0.5 * task.l2 * weights

    loss = penalised if penalty_in_loss else cross_entropy
    return AttributionTask(
        loss_func=loss, target_func=cross_entropy, model=model, checkpoints=model.state_dict()
    )


def _cached(attributor: Any, task: Task, test_batch: int | None = None) -> Answers:
    """The scores after `cache`; all test points at once, or in batches.

    All rows in one batch: `cache` sums the solutions of its batches (so two batches give a wrong answer), and
    `attribute` solves again for every pair of a training and a test batch.
    """
    train = loader(task.X, task.y, task.n)
    attributor.cache(train)

    def answers(X_test: Tensor, y_test: Tensor) -> Tensor:
        # no_grad: without it the products of the solve record a graph that nobody reads.
        with torch.no_grad():
            scores = attributor.attribute(train, loader(X_test, y_test, test_batch or len(X_test)))
        return -scores.T.double()

    return answers


LIBRARIES = {
    "dattri": {
        "softmax": ConjugateGradients(),
        "cnn": ConjugateGradients(max_iter=45, penalty_in_train_gradient=True, test_batch=1),
    },
    "dattri-explicit": {"softmax": Explicit()},
    "dattri-arnoldi": {"softmax": Arnoldi()},
}
