"""upweight itself: its ways to scores, asked as the others are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import upweight as uw
from benchmarks.libraries.base import Answers, Library
from benchmarks.problems import Task, head
from experiments import fig2_cnn
from upweight.losses import next_token

COMPRESS = 1e-2
"""Relative error of the answers of methods whose name says that they are compressed."""
RESIDUAL = 8e-4
"""To which conjugate gradients of softmax regression go."""
BLOCKS = ["transformer.h.*.attn.c_*", "transformer.h.*.mlp.c_*"]
"""The dense layers of GPT-2's blocks: the parameters that count."""
JUDGED = 4
"""Texts whose exact scores are known."""


class Ours(Library):
    """What all of them share."""

    package = "upweight"
    penalty_in_train_gradient = True
    refusals = (uw.InfluenceError,)


class Softmax(Ours):
    """Those that softmax regression is asked of: so many rows that every way of summing over them is taken."""

    warm_rows = 3000


@dataclass(frozen=True)
class Iterative(Softmax):
    """`LinearProblem`: the Hessian by conjugate gradients, preconditioned by EKFAC or by the Hessian of a tenth."""

    helper: str = "ekfac"

    def prepare(self, task: Task) -> Answers:
        # Everything counts as the question's: nothing is done before it.
        return lambda X_test, y_test: self.influence(task).on_loss((X_test, y_test)).values

    def influence(self, task: Task) -> uw.Influence:
        problem = linear_problem(task)
        if self.helper == "ekfac":
            closed: Any = uw.EKFAC(problem, rows=7840, leading=96)
        else:
            closed = uw.Hessian(problem.subset(torch.arange(0, problem.n, 10)))
        return uw.Influence(problem, solver=uw.ConjugateGradient(rtol=RESIDUAL, preconditioner=closed))


@dataclass(frozen=True)
class Factorised(Softmax):
    """`LinearProblem`: the factorised float64 Hessian, whose residual is recomputed."""

    def prepare(self, task: Task) -> Answers:
        influence = uw.Influence(linear_problem(task), solver=uw.Exact())
        influence.solve(torch.zeros(1, influence.problem.p, dtype=influence.problem.dtype))
        return lambda X_test, y_test: influence.on_loss((X_test, y_test)).values


@dataclass(frozen=True)
class AnyModel(Softmax):
    """`Problem`, which knows a torch model alone: Gauss-Newton by conjugate gradients, preconditioned by EKFAC."""

    def prepare(self, task: Task) -> Answers:
        def answers(X_test: Tensor, y_test: Tensor) -> Tensor:
            problem = uw.Problem(task.network(), F.cross_entropy, (task.X, task.y), l2=task.l2)
            helper = uw.EKFAC(problem, rows=7840, leading=96)
            solver = uw.ConjugateGradient(rtol=RESIDUAL, preconditioner=helper)
            influence = uw.Influence(problem, curvature=uw.GaussNewton(problem), solver=solver)
            return influence.on_loss((X_test, y_test)).values

        return answers


@dataclass(frozen=True)
class Network(Ours):
    """`Problem`: the Gauss-Newton matrix factorised, the Hessian by conjugate gradients, or EKFAC."""

    curvature: str
    compress: float | None = None

    def prepare(self, task: Task) -> Answers:
        problem = network_problem(task)
        if self.curvature == "gauss-newton":
            curvature, solver = uw.GaussNewton(problem, task.damping), uw.Exact()
            influence = uw.Influence(problem, curvature=curvature, solver=solver)
        elif self.curvature == "hessian":
            influence = uw.Influence(problem, curvature=uw.Hessian(problem, task.damping))
        else:  # one random combination of the outputs per example, or their curvature in closed form
            samples = 1 if self.curvature == "ekfac-sampled" else None
            influence = uw.Influence(problem, curvature=uw.EKFAC(problem, task.damping, samples=samples))
        ready(influence)
        return lambda X_test, y_test: influence.on_loss((X_test, y_test), compress=self.compress).values


@dataclass(frozen=True)
class LanguageModel(Ours):
    """EKFAC of a language model's blocks as a user writes it, with one drawn label per token."""

    autocast: torch.dtype | None = None

    def prepare(self, task: Task) -> Answers:
        params = [f"{name}.*" for name in BLOCKS]
        problem = uw.Problem(task.model, next_token, task.X, params=params, autocast=self.autocast)
        influence = uw.Influence(problem, curvature=uw.EKFAC(problem, task.damping, samples=1))
        ready(influence)
        return lambda texts, labels: influence.on_loss(texts).values


@dataclass(frozen=True)
class LanguageModelExact(Ours):
    """Gauss-Newton by conjugate gradients to a residual of 1e-2, helped by a low-rank inverse of a tenth."""

    warm_rows = 0  # where a question takes an hour, the imports do not matter

    def prepare(self, task: Task) -> Answers:
        problem = uw.Problem(task.model, next_token, task.X, params=[f"{name}.*" for name in BLOCKS])
        tenth = problem.subset(torch.arange(0, problem.n, 10))
        helper = uw.Nystrom(uw.GaussNewton(tenth, task.damping), rank=100)
        solver = uw.ConjugateGradient(rtol=1e-2, preconditioner=helper)
        influence = uw.Influence(problem, curvature=uw.GaussNewton(problem, task.damping), solver=solver)
        ready(influence)
        return lambda texts, labels: influence.on_loss(head(texts, JUDGED)).values


def linear_problem(task: Task, **options: Any) -> uw.LinearProblem:
    """Softmax regression at the weights in their own precision."""
    theta = next(task.model.parameters()).detach()
    return uw.LinearProblem(task.X, task.y, theta, loss=uw.Softmax(), l2=task.l2, **options)


def network_problem(task: Task) -> uw.Problem:
    """The objective of a network: if there is a penalty, it is on weights alone."""
    l2 = fig2_cnn.penalties(task.model) if task.l2 else 0.0
    return uw.Problem(task.model, F.cross_entropy, (task.X, task.y), l2=l2)


def ready(influence: uw.Influence) -> None:
    """Do all that does not depend on the test points."""
    assert influence.inverse
    solver = influence.settings.solver
    if isinstance(solver, uw.ConjugateGradient) and solver.preconditioner is not None:
        solver.preconditioner.factor()


LIBRARIES = {
    "upweight-cg-ekfac": {"softmax": Iterative()},
    "upweight-cg-hessian": {"softmax": Iterative("hessian")},
    "upweight-exact": {"softmax": Factorised(), "text": LanguageModelExact()},
    "upweight-problem": {"softmax": AnyModel()},
    "upweight-gauss-newton": {"cnn": Network("gauss-newton")},
    "upweight-hessian": {"cnn": Network("hessian")},
    "upweight-ekfac": {"mlp": Network("ekfac"), "text": LanguageModel()},
    "upweight-ekfac-compressed": {"mlp": Network("ekfac", COMPRESS)},
    "upweight-ekfac-sampled-compressed": {"mlp": Network("ekfac-sampled", COMPRESS)},
    "upweight-ekfac-bfloat16": {"text": LanguageModel(torch.bfloat16)},
}
