"""All questions that are divided over processes, of small models: `python questions.py OUT`, alone or by torchrun."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from upweight.curvature.nystrom import Nystrom
from upweight.evaluation import random_subsets, retrained
from upweight.runtime import distributed
from upweight.runtime.tensor_files import write

N = 37  # not divisible


def linear() -> tuple[uw.LinearProblem, Any]:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, 4, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (N,), generator=generator)
    weights = 0.5 + torch.rand(N, generator=generator, dtype=torch.float64)
    problem = uw.LinearProblem.fit(
        X, y, loss=uw.Softmax(), outputs=3, intercept=True, l2=0.1, weights=weights
    )
    return problem, (X[:3] + 0.1, y[:3])


def network(seed: int = 0) -> tuple[uw.Problem, Any]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 3)).double().eval()
    X, y = torch.randn(N, 1, 6, 6, dtype=torch.float64), torch.randint(3, (N,))
    # Blocks smaller than a share.
    problem = uw.Problem(model, F.cross_entropy, (X, y), l2=0.01, batch_size=8)
    return problem, (X[:3] + 0.1, y[:3])


def unrolled(folder: Path | None = None) -> tuple[uw.Unrolled, Any]:
    """A recorded run; of several processes that share a folder the first one replays it."""
    from tests.support.runs import data, sgd, trained

    run = trained(sgd(momentum=0.9)) if folder is None else trained(sgd(momentum=0.9)).within(folder=folder)
    return uw.Unrolled(run), data(n=4, seed=1)


def through_training() -> dict[str, torch.Tensor]:
    """What is divided over processes by test rows, and by training rows; one row is fewer than there are processes."""
    run, test = unrolled()
    return {
        "through training": run.on_loss(test).values,
        "of one row through training": run.on_loss((test[0][:1], test[1][:1])).values,
        "own through training": run.on_self(block=10).values,
        "moves through training": run.on_params([0, 5, 7]),
        "inputs through training": run.on_inputs([0, 5], test),
    }


def answers() -> dict[str, torch.Tensor]:
    found = through_training()
    models: dict[str, tuple[uw.LinearProblem | uw.Problem, Any]] = {"linear": linear(), "network": network()}
    for name, (problem, test) in models.items():
        gauss_newton = uw.GaussNewton(problem, damping=0.1)
        closed = uw.EKFAC(problem, damping=0.1)
        for kind, influence in {
            "exact": uw.Influence(problem, curvature=gauss_newton, solver=uw.Exact()),
            "cg": uw.Influence(
                problem,
                curvature=gauss_newton,
                solver=uw.ConjugateGradient(rtol=1e-11, preconditioner=closed),
            ),
            "nystrom": uw.Influence(
                problem,
                curvature=gauss_newton,
                solver=uw.ConjugateGradient(rtol=1e-11, preconditioner=Nystrom(gauss_newton, rank=5)),
            ),
            "ekfac": uw.Influence(problem, curvature=closed),
            "lissa": uw.Influence(problem, curvature=gauss_newton, solver=uw.LiSSA(depth=20)),
        }.items():
            found[f"{name} {kind}"] = influence.on_loss(test).values
            if kind != "lissa":
                found[f"{name} {kind} self"] = influence.on_self().values
            kept = influence.on_loss(test, top=2)
            assert kept.columns is not None
            found[f"{name} {kind} top"], found[f"{name} {kind} columns"] = kept.values, kept.columns
            found[f"{name} {kind} removal"] = influence.of_removal([[0, 30], [5]], test).first_order
        found[f"{name} losses"] = problem.train_losses()
        found[f"{name} Hessian"] = uw.Hessian(problem).matrix()
        found[f"{name} spectrum"] = torch.tensor(uw.Hessian(problem).spectrum(), dtype=torch.float64)
    problem, test = linear()
    influence = uw.Influence(problem)
    found["gain"] = torch.tensor(uw.mislabeled(influence, validation=test).table["gain"].tolist())
    found["leave-one-out"] = influence.leave_one_out().loss
    found["retrained"] = retrained(
        lambda kept, seed: [float(kept.sum()), float(distributed.ranks())], random_subsets(6, 5)
    )
    return found


if __name__ == "__main__":
    write(Path(sys.argv[1]), answers(), {"ranks": distributed.ranks()})
