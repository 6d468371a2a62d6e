"""Training of linear models to a gradient norm: Newton steps, for many parameters after L-BFGS."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg

from ..errors import NotConvergedError
from ..objective import LinearModel
from ..types import Tensor
from .gradient_scale import AIM, ENOUGH, GradientScale

Model = TypeVar("Model", bound=LinearModel)

DENSE = 1000
"""Up to this many parameters the Hessian is factorised at every step."""
STEPS = 60
"""Newton steps after which training has failed."""
SHORTEST = 1e-6
"""The least share of a Newton step that is tried."""


def minimise(problem: Model, tolerance: float | None = None) -> Model:
    """The problem at its optimum, trained from its own theta until what is left of the gradient is nothing.

    Newton steps, halved until the objective falls: by Cholesky up to `DENSE` parameters, else by conjugate gradients
    after L-BFGS has come near. Softmax without a penalty ends at the optimum nearest to the start.

    Args:
        problem: a linear model at any parameters.
        tolerance: the gradient norm at which training ends; None: 1e-8 of what one example contributes to the gradient,
            whatever the units of columns and targets (`GradientScale`).

    Raises:
        NotConvergedError: where there is no optimum (separable data without a penalty) or rounding hides it.
    """
    # A copy, so that what its passes leave behind is freed when it moves on.
    here = problem.at(problem.theta) if len(problem.theta) <= DENSE else _by_lbfgs(problem)
    before = float("inf")
    for _ in range(STEPS):
        gradient = here.gradient()
        left = _left(here, gradient, tolerance)
        if left <= 1 or (tolerance is None and before / 2 <= left <= ENOUGH / AIM):
            return here
        before = left
        step, size, value = _newton_step(here, gradient), 1.0, here.value()
        enough = value + 1e-12 * (1 + abs(value))
        there = here.at(here.theta - step)
        while not there.value() <= enough and size > SHORTEST:
            size /= 2
            there = here.at(here.theta - size * step)
        here = there  # with what its value has already taken a pass for
    norm = float(here.gradient().norm())
    wanted = norm / _left(here, here.gradient(), tolerance)
    raise NotConvergedError(
        f"training stopped at gradient norm {norm:.1e}, wanted {wanted:.0e}; "
        "add a penalty (l2 > 0) or scale the columns of X"
    )


def _left(here: LinearModel, gradient: Float[Tensor, " p"], tolerance: float | None) -> float:
    """What is left of the gradient, 1 or less where training ends."""
    if tolerance is not None:
        return float(gradient.norm()) / tolerance
    return float(GradientScale.of(here).share(gradient[None])) / AIM


def _by_lbfgs(problem: Model) -> Model:
    """The problem where L-BFGS ends, near enough to the optimum for Newton steps."""

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        there = problem.at(torch.from_numpy(theta))
        return there.value(), there.gradient().numpy()

    options = {"maxiter": 2000, "maxcor": 20, "ftol": 0.0, "gtol": 1e-6}
    start = problem.theta.numpy()
    rough = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
    return problem.at(torch.from_numpy(rough.x))


def _newton_step(here: LinearModel, gradient: Float[Tensor, " p"]) -> Float[Tensor, " p"]:
    """H^-1 times the gradient: by a factorisation of few parameters, else by SciPy's conjugate gradients."""
    p = len(gradient)
    if p > DENSE:
        product = here.hessian.product()

        def matvec(v: np.ndarray) -> np.ndarray:
            return product(torch.from_numpy(v.reshape(1, -1)))[0].numpy()

        hessian = LinearOperator((p, p), matvec=matvec, dtype=np.float64)
        return torch.from_numpy(cg(hessian, gradient.numpy(), rtol=1e-5, maxiter=500)[0])
    H, gauge = here.hessian.matrix(), here.gauge
    size = float(H.diagonal().mean())
    if gauge is not None:
        H.addmm_(gauge.T, gauge, alpha=size)
    lower, failed = torch.linalg.cholesky_ex(H)
    if int(failed):  # singular to rounding: a step that goes nowhere along flat directions
        H.diagonal().add_(1e-10 * size)
        lower = torch.linalg.cholesky_ex(H)[0]
    return torch.cholesky_solve(gradient[:, None], lower)[:, 0]
