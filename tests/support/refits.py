"""Plain refits and Newton steps of `Case`s: the judges of influence and removal, without code of the library."""

from collections.abc import Callable

import torch

from upweight import LinearProblem

from .cases import Case, to_dense

EPS = 1e-5
Batch = tuple[torch.Tensor, torch.Tensor]
Value = Callable[[torch.Tensor], torch.Tensor]


def one(case: Case, i: int) -> Batch:
    """Training example i as a batch."""
    return case.dense[i : i + 1], case.y[i : i + 1]


def losses_on_test(case: Case, theta: torch.Tensor) -> torch.Tensor:
    """(m,): the plain losses of the case's test batch."""
    return case.losses(theta, to_dense(case.test[0]), case.test[1])


def central(
    case: Case, function: Value, X: torch.Tensor, y: torch.Tensor, less: Batch | None = None
) -> torch.Tensor:
    """d function(argmin) / d eps at 0, by two refits."""
    up, down = (function(case.up_weighted(s * EPS, X, y, less=less)) for s in (1, -1))
    return (up - down) / (2 * EPS)


def penalty_kept(case: Case, kept: int) -> float:
    """What the penalty of the *total* objective is multiplied with after the removal."""
    return case.n if case.keep == "total" else kept


def total_objective(case: Case, removed: list[int]) -> Value:
    """The reduced objective, a sum and not a mean, as a textbook writes it."""
    w = case.w.clone()
    w[removed] = 0.0
    strength = penalty_kept(case, case.n - len(removed))

    def value(theta: torch.Tensor) -> torch.Tensor:
        losses = case.losses(theta, case.dense, case.y)
        return (w * losses).sum() + strength * (0.5 * case.penalty * theta**2).sum()

    return value


def plain_step(case: Case, removed: list[int]) -> torch.Tensor:
    """The Newton step on the reduced objective, less the one that finishing the training would take."""
    theta = case.problem.theta
    H = torch.autograd.functional.hessian(total_objective(case, removed), theta)
    gradient = torch.autograd.functional.jacobian(lambda t: case.train_objective(t)[removed].sum(), theta)
    return torch.linalg.lstsq(H, gradient[:, None], driver="gelsd").solution[:, 0]


def one_contribution(problem: LinearProblem) -> float:
    """What one example contributes to the gradient: the root mean square of ||w_i grad l_i|| / n, without penalty."""
    gradients = problem.train_gradients(torch.arange(problem.n)) - problem.folded_penalty
    return float(gradients.norm(dim=1).square().mean().sqrt()) / problem.n
