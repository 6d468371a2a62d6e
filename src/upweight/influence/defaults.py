"""Settings that nobody needs to guess: which curvature, which damping, which solver, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..curvature.ekfac import EKFAC
from ..curvature.hessian import EmpiricalCurvature, GaussNewton, Hessian
from ..curvature.nystrom import Nystrom
from ..objective import Objective
from ..solvers import ConjugateGradient, Exact, Solver

DIRECT = 2000
"""Up to this many parameters of a linear problem (or rows, on the dual side) one factorisation is cheapest."""
DENSE = 10_000
"""Up to this many parameters of a network its Gauss-Newton matrix fits, p^2 numbers."""
DENSE_WORK = 5e12
"""Multiplications n c p^2 that forming that matrix may take, about a minute on two cores."""
HELPER_WORK = 5e11
"""The same where that matrix, of fewer rows, is a preconditioner."""
LEADING = 64
"""Leading input directions that the preconditioner of one layer keeps whole."""
WIDEST = 4096
"""Columns of a layer whose input basis is worth finding."""
ROOT = 2e8
"""Numbers of a linear problem's curvature root that may be held, rows x columns."""
RANK = 100
"""Directions that the preconditioner of a network keeps."""


@dataclass(frozen=True)
class Settings:
    """The curvature and the solver that answer, and why they were chosen: one sentence each, and remarks."""

    curvature: Curvature
    solver: Solver
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.reasons)


def chosen(problem: Objective, curvature: Curvature | None, solver: Solver | None) -> Settings:
    """What was given, and a choice for what was not.

    Args:
        problem: what was minimised.
        curvature: as given, or None.
        solver: as given, or None.
    """
    why_curvature, why_solver = "curvature: as given", "solver: as given"
    if curvature is None:
        curvature, why_curvature = choose_curvature(problem)
    if solver is None:
        solver, why_solver = choose_solver(problem, curvature)
    return Settings(curvature, solver, (why_curvature, why_solver, *problem.remarks))


def choose_curvature(problem: Objective) -> tuple[Curvature, str]:
    """The Hessian, damped only where the spectrum asks for it; Gauss-Newton where it is the same and cheaper."""
    if problem.facts.convex:
        return Hessian(problem), "curvature: Hessian without damping, since the objective is convex"
    if problem.facts.linear:
        reason = (
            "curvature: GaussNewton without damping, here the Hessian itself: outputs are linear in the parameters and "
            "the loss is convex in them"
        )
        return GaussNewton(problem), reason
    lowest, highest = Hessian(problem).spectrum()
    if lowest > 1e-6 * highest:
        reason = f"positive definite (smallest eigenvalue {lowest:.1e})"
        return Hessian(problem), f"curvature: Hessian without damping, {reason}"
    damping = max(0.0, -1.5 * lowest) + 1e-3 * highest
    reason = (
        f"curvature: Hessian + {damping:.2e}; its spectrum reaches from {lowest:.2e} to {highest:.2e}: negative "
        "curvature cured by 1.5 times the most negative eigenvalue plus 1e-3 of the largest"
    )
    return Hessian(problem, damping), reason


def choose_solver(problem: Objective, curvature: Curvature) -> tuple[Solver, str]:
    """A factorisation where it is cheap, else conjugate gradients with the preconditioner that suits the model."""
    if curvature.examples is None:
        if curvature.closed or curvature.p <= DENSE:
            return Exact(), f"solver: Exact, by the closed inverse of {type(curvature).__name__}"
        return ConjugateGradient(rtol=1e-5), f"solver: ConjugateGradient, p = {curvature.p}"
    if problem.facts.closed_form:
        return _solver_of_linear(problem, curvature)
    whole = curvature.semidefinite and curvature.examples.undamped is problem.gauss_newton
    if problem.p <= DIRECT // 4 or (whole and _fits(problem, problem.n)):
        return Exact(), f"solver: Exact, one factorisation of p = {problem.p} rows"
    shape = _one_layer(problem)
    if shape is not None and shape[1] <= WIDEST:
        return _ekfac(problem, curvature, *shape, rtol=1e-5)
    return _leading(problem, curvature, GaussNewton, rtol=1e-5)


def _solver_of_linear(problem: Objective, curvature: Curvature) -> tuple[Solver, str]:
    """Of a linear model: factorised on its smaller side, or preconditioned."""
    size = min(problem.p, problem.n * problem.facts.c)
    shape = _one_layer(problem)
    assert shape is not None
    wide = shape[1] > WIDEST  # too many columns for the basis of a preconditioner
    if size <= DIRECT or (wide and size <= DENSE and size * problem.p <= ROOT):
        return Exact(), f"solver: Exact, one factorisation of {size} rows"
    if wide:
        return _leading(problem, curvature, Hessian, rtol=1e-6)
    return _ekfac(problem, curvature, *shape, rtol=1e-6)


def _one_layer(problem: Objective) -> tuple[int, int] | None:
    """Outputs and inputs of the weight matrix that holds all parameters, if one does."""
    matrices = () if problem.layers is None else problem.layers.layout.matrices
    if len(matrices) != 1 or len(matrices[0].index) != problem.p:
        return None
    return matrices[0].rows, matrices[0].columns


def _fits(problem: Objective, rows: int) -> bool:
    """Whether the Gauss-Newton matrix of that many rows may be formed."""
    return problem.p <= DENSE and rows * problem.facts.c * problem.p**2 <= DENSE_WORK


def _leading(
    problem: Objective, curvature: Curvature, kind: type[EmpiricalCurvature], rtol: float
) -> tuple[Solver, str]:
    rows = max(2000, problem.n // 10)
    whole = _fits(problem, min(problem.n, rows))
    if whole:
        rows = max(rows, int(HELPER_WORK / (problem.facts.c * problem.p**2)))
    index = torch.linspace(0, problem.n - 1, min(problem.n, rows)).long()
    sample = kind(problem.subset(index), curvature.damping)
    reason = (
        f"solver: ConjugateGradient preconditioned by {'' if whole else f'{RANK} directions (Nystrom) of '}the "
        f"{kind.__name__} matrix of {len(index)} rows, since p = {problem.p}"
    )
    closed = sample if whole else Nystrom(sample, rank=RANK)
    return ConjugateGradient(rtol=rtol, preconditioner=closed), reason


def _ekfac(
    problem: Objective, curvature: Curvature, outputs: int, inputs: int, rtol: float
) -> tuple[Solver, str]:
    rows = min(problem.n, max(4096, 10 * inputs))
    leading = min(LEADING, inputs, DIRECT // outputs)
    reason = (
        f"solver: ConjugateGradient preconditioned by EKFAC on {rows} rows with {leading} leading directions kept "
        f"whole, since p = {problem.p}"
    )
    closed = EKFAC(problem, curvature.damping, rows=rows, leading=leading)
    return ConjugateGradient(rtol=rtol, preconditioner=closed), reason
