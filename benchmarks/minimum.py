"""Train the paper's CNN on to where its Hessian + 0.01 is positive definite.

    python -m benchmarks minimum --out minimum.pt

--evaluations of L-BFGS, then --steps Newton steps with the Hessian + damping by upweight's own conjugate gradients.
The damping is halved down to 0.0125 and doubled where the Hessian is indefinite or the objective would rise. About
seven minutes on two cores; the file is for `networks cnn --weights`. `--weights` here is what the experiment fig2_cnn
keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn import functional as F

import upweight as uw
from benchmarks.problems import CNN, trained
from experiments import commands, fig2_cnn

LEAST = 0.0125
"""Damping: with less the steps went on to where curvature is negative again."""


def problem_at(theta: torch.Tensor, data: tuple[torch.Tensor, torch.Tensor]) -> uw.Problem:
    """The objective with the network's weights there."""
    model = fig2_cnn.build()
    fig2_cnn.load_into(model, theta)
    return uw.Problem(model.eval(), F.cross_entropy, data, l2=fig2_cnn.penalties(model))


def objective(problem: uw.Problem) -> float:
    """R at the problem's weights."""
    return float(problem.train_losses().double().mean() + 0.5 * (problem.l2 * problem.theta.square()).sum())


def descended(theta: torch.Tensor, data: tuple[torch.Tensor, torch.Tensor], evaluations: int) -> torch.Tensor:
    """By L-BFGS."""
    at = theta.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [at],
        max_iter=evaluations,
        max_eval=evaluations,
        history_size=60,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        problem = problem_at(at.detach(), data)
        at.grad = problem.gradient()
        return torch.tensor(objective(problem))

    optimiser.step(closure)
    return at.detach()


def stepped(problem: uw.Problem, damping: float) -> torch.Tensor:
    """The weights after a Newton step. Raises IndefiniteError."""
    helper = uw.GaussNewton(problem, damping)
    solver = uw.ConjugateGradient(rtol=1e-2, preconditioner=helper)
    step = solver.prepare(uw.Hessian(problem, damping))(problem.gradient()[None]).value[0]
    return problem.theta - step


def main(argv: Sequence[str] | None = None) -> None:
    """Descend, step, and keep every better set of weights."""
    parser = commands.parser(__name__, __doc__)
    parser.add_argument("--weights", type=Path, help="(p,) or (1, p) tensor file")
    parser.add_argument("--data", type=Path, help="mnist.npz, if not that of UPWEIGHT_DATA_DIR")
    parser.add_argument("--rows", type=int, help="only the first rows of the training set")
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    data = CNN.load(1, options.rows, options.data)[:2]
    theta, damping = trained(options.weights, "fig2_cnn").flatten(), 0.05
    problem = problem_at(descended(theta, data, options.evaluations), data)
    for _ in range(options.steps):
        print(
            f"objective {objective(problem):.6f}, gradient {float(problem.gradient().norm()):.1e}", flush=True
        )
        while damping < 1e4:
            try:
                after = problem_at(stepped(problem, damping), data)
            except uw.IndefiniteError:
                damping *= 2
                continue
            if objective(after) < objective(problem):
                break
            damping *= 2
        else:
            return
        problem, damping = after, max(LEAST, damping / 2)
        torch.save(problem.theta, options.out)
