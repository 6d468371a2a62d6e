"""Training of linear models to a gradient norm: Newton steps, for many parameters after L-BFGS."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg

from ..errors import IndefiniteError, NoOptimumError, NotConvergedError
from ..linalg.coordinates import Coordinates
from ..linalg.factorizations import CholeskyFactor
from ..objective import LinearModel
from ..types import Tensor
from .existence import check_separable
from .gradient_scale import AIM, ENOUGH, GradientScale

Model = TypeVar("Model", bound=LinearModel)

DENSE = 1000
"""Up to this many parameters the Hessian is factorised at every step."""
STEPS = 60
"""Newton steps after which training has failed."""
TRIED = 60
"""Parameters that are tried for a hinge before another way is taken."""
WARM, COOLING, SLOWEST = 1.0, 0.3, 0.9
"""The temperature that a smoothed hinge is trained from (margins are counted in ones), the share of it that is left
after a step down, and the largest share, after steps that were too wide."""
FLAT = 1e-10
"""The share of the diagonal that is added to a Hessian that is singular to rounding."""
SHORTEST = 1e-6
"""The least share of a Newton step that is tried."""
FAR = 8.0
"""Outputs beyond this may be on their way to infinity: there e^-8 of a loss is left."""
SCALES, STAYS = 200, 1e-11
"""Turns of coefficients and scale, and the share by which a scale that is found still moves."""
SOFT = (1.0, 0.1, 0.01)
"""Temperatures of the cheap training."""


def minimise(problem: Model, tolerance: float | None = None) -> Model:
    """The problem at its optimum, trained from its own theta until what is left of the gradient is nothing.

    Newton steps, halved until the objective falls: by Cholesky up to `DENSE` parameters, else by conjugate gradients
    after L-BFGS has come near, as it also does from a start so far away that no part of a step lets the objective fall.
    Softmax without a penalty ends at the optimum nearest to the start. A smoothed hinge that is too sharp to be reached
    from there is trained at falling temperatures.

    Args:
        problem: a linear model at any parameters.
        tolerance: the gradient norm at which training ends; None: 1e-8 of what one example contributes to the gradient,
            whatever the units of columns and targets (`GradientScale`).

    Raises:
        NoOptimumError: for separable data without a penalty.
        NotConvergedError: where rounding hides the optimum.
    """
    if problem.loss.fits_scale:
        return _with_scale(problem, tolerance)
    here, reached = _by_newton(problem, tolerance)
    if not reached and problem.loss.stands_in:
        here, reached = _by_continuation(problem, tolerance)
    if reached:
        if float(here.outputs().abs().max()) > FAR:
            try:
                check_separable(here)
            except ValueError as error:
                raise NoOptimumError(str(error)) from error
        return here
    norm = float(here.gradient().norm())
    wanted = norm / _left(here, here.gradient(), tolerance)
    raise NotConvergedError(
        f"training stopped at gradient norm {norm:.1e}, wanted {wanted:.0e}; "
        "add a penalty (l2 > 0) or scale the columns of X"
    )


def _with_scale(problem: Model, tolerance: float | None) -> Model:
    """The problem at its optimum in the coefficients and the scale of its loss, each in turn until both stay."""
    for _ in range(SCALES):
        loss: Any = problem.loss
        there = minimise(problem.with_loss(replace(loss, epsilon=None)), tolerance)
        residual = there.outputs() - there.y
        ratio = float(loss.scales_without(residual, there.weights, [torch.arange(0)]))
        problem = there.with_loss(replace(loss, delta=loss.delta * ratio)).changed(l2=there.l2 * ratio)
        if abs(ratio - 1) < STAYS:
            return problem
    raise NotConvergedError(f"the scale of the loss still moves after {SCALES} turns: give a larger epsilon")


def _left(here: LinearModel, gradient: Float[Tensor, " p"], tolerance: float | None) -> float:
    """What is left of the gradient, 1 or less where training ends."""
    if tolerance is not None:
        return float(gradient.norm()) / tolerance
    return float(GradientScale.of(here).share(gradient[None])) / AIM


def _by_newton(problem: Model, tolerance: float | None) -> tuple[Model, bool]:
    """The problem where Newton steps end, and whether its gradient is that small there.

    Of a hinge they are given up after `TRIED` parameters, most of them shortened steps: there is a better way.
    """
    # A copy, so that what its passes leave behind is freed when it moves on.
    here = problem.at(problem.theta) if len(problem.theta) <= DENSE else _by_lbfgs(problem)
    tried, before, helped = 0, float("inf"), False
    for _ in range(STEPS):
        gradient = here.gradient()
        left = _left(here, gradient, tolerance)
        if left <= 1 or (tolerance is None and before / 2 <= left <= ENOUGH / AIM):
            return here, True
        before = left
        if problem.loss.stands_in and tried > TRIED:
            break
        step, size, value = _newton_step(here, gradient), 1.0, here.value()
        enough = value + 1e-12 * (1 + abs(value))
        there = here.at(here.theta - step)
        while not there.value() <= enough and size > SHORTEST:
            size /= 2
            there = here.at(here.theta - size * step)
        tried += 1 - int(math.log2(size))
        if not (there.value() <= enough or helped or problem.loss.stands_in):
            here, helped = _by_lbfgs(here), True  # far away, where outputs have next to no curvature
            continue
        here = there  # with what its value has already taken a pass for
    return here, False


def _by_continuation(problem: Model, tolerance: float | None) -> tuple[Model, bool]:
    """A smoothed hinge trained from the optima of softer ones, each the start of the next, and whether it got there.

    Newton's quadratic model of a hinge holds over changes of margins of the size of its temperature.
    """
    wanted = problem.loss.temperature  # type: ignore[attr-defined]
    here, reached, cooling = problem, WARM / COOLING, COOLING
    while reached > wanted:
        cooler = max(wanted, reached * cooling)
        softer = replace(problem.loss, temperature=cooler)  # type: ignore[type-var]
        there, trained = _by_newton(here.with_loss(softer), tolerance)
        if trained:
            here, reached, cooling = there, cooler, COOLING
        elif cooling < SLOWEST:
            cooling = cooling**0.5
        else:
            return there.with_loss(problem.loss), False
    return here, True


def softened(problem: Model) -> Model:
    """A smoothed hinge after a few steps of L-BFGS at falling temperatures: nearer to its optimum, cheaply.

    At the parameters that it reaches the objective need not be lower: nothing is promised but the price, some hundred
    passes over X.
    """
    here, loss = problem, problem.loss
    for temperature in SOFT:
        softer = replace(loss, temperature=temperature)  # type: ignore[type-var]
        here = _by_lbfgs(here.with_loss(softer), steps=50)
    return here.with_loss(loss)


def _by_lbfgs(problem: Model, steps: int = 2000) -> Model:
    """The problem where L-BFGS ends, near enough to the optimum for Newton steps."""

    def value_and_gradient(theta: np.ndarray) -> tuple[float, np.ndarray]:
        there = problem.at(torch.from_numpy(theta))
        return there.value(), there.gradient().numpy()

    options = {"maxiter": steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-6}
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
    there, coordinates = here.hessian.centred() or (here.hessian, Coordinates())
    H, inside = there.matrix(), coordinates.inward(gradient[None])
    try:
        factor = CholeskyFactor(H, here.gauge)
    except IndefiniteError:  # singular to rounding: a step that goes nowhere along flat directions
        size = H.diagonal().clone()
        H.diagonal().add_(FLAT * torch.where(size > 0, size, 1.0))
        factor = CholeskyFactor(H, here.gauge)
    return coordinates.outward(factor.solve(inside))[0]
