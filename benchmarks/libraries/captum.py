"""captum: the inverse Hessian on a Krylov space, and the dense one."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.libraries.base import Answers, Library, loader
from benchmarks.problems import Task


@dataclass(frozen=True)
class Arnoldi(Library):
    """`ArnoldiInfluenceFunction`: the inverse on the Krylov space of one random vector, taken to be 0 outside it.

    The penalty and the damping are `hessian_reg`, n times, for the sum of the losses.
    """

    package = "captum"
    dim: int = 200
    batch: int = 500
    hessian_batch: int | None = None

    def prepare(self, task: Task) -> Answers:
        from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction

        dims = {"arnoldi_dim": self.dim, "projection_dim": self.dim, "seed": 0}
        return _answers(ArnoldiInfluenceFunction, task, self.batch, self.hessian_batch, **dims)


@dataclass(frozen=True)
class Naive(Library):
    """`NaiveInfluenceFunction`: the dense Hessian and its eigenvectors, no direction dropped."""

    package = "captum"
    batch: int = 500

    def prepare(self, task: Task) -> Answers:
        from captum.influence._core.influence_function import NaiveInfluenceFunction

        p = sum(part.numel() for part in task.model.parameters())
        settings = {"projection_dim": p, "hessian_inverse_tol": 0.0}
        return _answers(NaiveInfluenceFunction, task, self.batch, None, **settings)


def _answers(
    function: Any, task: Task, batch: int, hessian_batch: int | None = None, **settings: Any
) -> Answers:
    """The scores of one of captum's functions.

    captum's Hessian is that of the *sum* of the losses, so its scores are 1/n of ours.
    """
    model = task.network()
    with tempfile.NamedTemporaryFile(suffix=".pt") as checkpoint:
        torch.save(model.state_dict(), checkpoint.name)
        influence = function(
            model=model,
            train_dataset=loader(task.X, task.y, batch),
            hessian_dataset=loader(task.X, task.y, hessian_batch or task.n),
            checkpoint=checkpoint.name,
            loss_fn=nn.CrossEntropyLoss(reduction="sum"),
            sample_wise_grads_per_batch=True,
            hessian_reg=(task.l2 + task.damping) * task.n,
            **settings,
        )

    def answers(X_test: Tensor, y_test: Tensor) -> Tensor:
        return -task.n * influence.influence((X_test, y_test)).detach().double()

    return answers


LIBRARIES = {
    "captum": {"softmax": Arnoldi(), "cnn": Arnoldi(hessian_batch=500)},
    "captum-naive": {"softmax": Naive()},
}
