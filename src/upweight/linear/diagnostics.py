"""Whether a linear problem is at its optimum."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import torch

from ..capabilities import AWAY
from ..errors import IndefiniteError, NotConvergedError, NotStationaryWarning
from ..linalg.coordinates import Coordinates
from ..linalg.factorizations import CholeskyFactor
from ..objective import LinearModel
from ..runtime.warned import warned
from .gradient_scale import GradientScale, residuals
from .newton_training import softened

Model = TypeVar("Model", bound=LinearModel)
TRAINED = 10**9
"""n p^2 up to which a hinge is trained to its optimum to see whether it was there: some seconds."""
SHARP = 1e-9
"""The temperature of a smooth hinge that is the true one."""
OPERATIONS, SAMPLE = 1 << 30, 1024
"""Up to n p^2 operations the norm of H^-1 is taken, over so many examples."""


def at_optimum(problem: Model, *, polish: bool) -> Model:
    """The problem at its optimum, or as it is, with a warning where that is no optimum.

    A gradient of R that is larger than what one example contributes (`distance`) hides the effects of single examples.
    A smoothed hinge has a gradient at the weights of the true one by construction; there the true objective is held
    against the one that further training reaches.

    Args:
        problem: a fitted model.
        polish: whether training is finished first.

    Raises:
        NotConvergedError: where polishing fails.

    Warns:
        NotStationaryWarning: where the gradient is larger than one example's contribution to it, or the objective of a
            hinge larger than the best by more than one example's share.
    """
    if polish:
        return problem.minimised()
    found = _unfinished_hinge(problem) if problem.loss.stands_in else _large_gradient(problem)
    if found:
        problem.cache[AWAY] = found
        warned(
            f"the estimator is not at its optimum: {found}, so that effects of single examples are uncertain; pass "
            "polish=True, or fit with a lower tol and a higher max_iter (if X, y and weights are those it was fitted "
            "on)",
            NotStationaryWarning,
        )
    return problem


def _large_gradient(problem: LinearModel) -> str:
    """The gradient in words where it is larger than one example's contribution, else nothing."""
    off = distance(problem)
    return f"the gradient of its objective is {off:.1f} times what one example contributes" if off > 1 else ""


def _unfinished_hinge(problem: LinearModel) -> str:
    """How far the true objective is above the one at weights that were trained further, in words, or nothing.

    Any better weights show that these are not the best: large problems are trained by a few cheap steps only.
    """
    small = problem.n * problem.p**2 <= TRAINED
    try:
        better = problem.minimised() if small else softened(problem)
    except NotConvergedError:
        better = softened(problem)
    sharp = dataclasses.replace(problem.loss, temperature=SHARP)  # type: ignore[type-var]
    here, there = (model.with_loss(sharp).value() for model in (problem, better))
    if not here - there > there / problem.n:
        return ""
    return (
        f"its objective is {here:.4g} and falls to {there:.4g} with further training, by "
        f"{(here - there) / (there / problem.n):.1f} times what one example has in it"
    )


def distance(problem: LinearModel) -> float:
    """How far training has yet to go, in what one example contributes to the gradient: 1 hides effects of examples.

    Both are taken in the norm of H^-1, whatever the units: of the gradient that is the Newton decrement, of examples
    the root mean square over `SAMPLE` of them. Large problems take the diagonal of H in its place (`GradientScale`).
    """
    gradient, parts = problem.gradient(), problem.derivatives()
    share = float(GradientScale.of(problem).share(gradient[None]))
    exact_fit = bool((parts.r.abs() < residuals(problem)).all())
    if exact_fit or problem.n * problem.p**2 > OPERATIONS:
        return share
    there, coordinates = problem.hessian.centred() or (problem.hessian, Coordinates())
    try:
        factor = CholeskyFactor(there.matrix(), problem.gauge)
    except IndefiniteError:
        return share
    index = torch.linspace(0, problem.n - 1, min(SAMPLE, problem.n), dtype=torch.float64).long()
    ones = (problem.train_gradients(index) - problem.folded_penalty) / problem.n
    sizes = factor.quadratic(coordinates.inward(torch.cat([gradient[None], ones]))).sqrt()
    one = float(sizes[1:].square().mean().sqrt())
    return float(sizes[0]) / one if one > 0 else share
