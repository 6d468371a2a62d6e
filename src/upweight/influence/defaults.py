"""Settings that nobody needs to guess: which curvature, which damping, which solver, each with its reason."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..curvature.ekfac import EKFAC
from ..curvature.hessian import EmpiricalCurvature, GaussNewton, Hessian
from ..curvature.nystrom import Nystrom
from ..curvature.stagewise import Stagewise
from ..errors import DerivativeError
from ..objective import Objective
from ..solvers import BackSubstitution, ConjugateGradient, Exact, Solver

DIRECT = 2000
"""Up to this many parameters of a linear problem (or rows, on the dual side) one factorisation is cheapest."""
DENSE = 10_000
"""Up to this many parameters of a network its Gauss-Newton matrix fits, p^2 numbers."""
DENSE_WORK = 5e12
"""Multiplications n c p^2 that forming that matrix may take, about a minute on two cores."""
HELPER_WORK = 5e11
"""Multiplications that forming such a matrix may take as a preconditioner, of fewer rows."""
LEADING = 96
"""Leading input directions that the preconditioner of one layer keeps whole."""
WIDEST = 4096
"""Columns of a layer whose input basis is worth finding."""
ROOT = 2e8
"""Numbers of a linear problem's curvature root that may be held, rows x columns."""
RANK = 100
"""Directions that the preconditioner of a network keeps."""


@dataclass(frozen=True)
class Settings:
    """The curvature and the solver that answer, and why they were chosen: one sentence each, and remarks.

    `str(influence.settings)` shows the sentences, a line each; score files carry them.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> print(Influence(LinearProblem.fit(torch.eye(3), torch.ones(3), loss=Squared(), l2=0.1)).settings)
    curvature: Hessian without damping, since the objective is convex
    solver: Exact, one factorisation of 3 rows
    """

    curvature: Curvature
    solver: Solver
    reasons: tuple[str, ...]

    @property
    def identity(self) -> str:
        """Curvature and solver in words that are equal exactly where their answers are, in every process.

        Curvatures, also one that preconditions, stand there by their content hashes.
        """
        fields = dataclasses.fields(self.solver)  # type: ignore[arg-type]
        values = {field.name: getattr(self.solver, field.name) for field in fields}
        plain = {name: v.fingerprint() if isinstance(v, Curvature) else v for name, v in values.items()}
        return f"{self.curvature.fingerprint()} {type(self.solver).__name__} {plain!r}"

    def saying(self, remarks: tuple[str, ...]) -> Settings:
        """The settings with remarks that came up since they were chosen."""
        later = tuple(remark for remark in remarks if remark not in self.reasons)
        return dataclasses.replace(self, reasons=(*self.reasons, *later)) if later else self

    def __str__(self) -> str:
        return "\n".join(self.reasons)


def chosen(problem: Objective, curvature: Curvature | None, solver: Solver | None) -> Settings:
    """The settings with what the user gave, and with a choice for what was not given.

    Args:
        problem: what was minimised.
        curvature: as given, or None: see `choose_curvature`.
        solver: as given, or None: see `choose_solver`.
    """
    why_curvature, why_solver = "curvature: as given", "solver: as given"
    if curvature is None:
        curvature, why_curvature = choose_curvature(problem)
    if solver is None:
        solver, why_solver = choose_solver(problem, curvature)
    return Settings(curvature, solver, (why_curvature, why_solver, *curvature.remarks, *problem.remarks))


def choose_curvature(problem: Objective) -> tuple[Curvature, str]:
    """The Hessian, damped only where its spectrum asks for it; Gauss-Newton where it is the Hessian and cheaper (R18).

    A convex objective costs no look. A network's Hessian costs up to 100 products for the ends of its spectrum: where
    the smallest eigenvalue is below 1e-6 of the largest, the damping is 1.5 times the most negative eigenvalue plus
    1e-3 of the largest. Given with the reason, one sentence.
    """
    if problem.stages is not None:
        return Stagewise(problem), "curvature: Stagewise, the equations of the leaves, round by round"
    if problem.facts.convex:
        return Hessian(problem), "curvature: Hessian without damping, since the objective is convex"
    if problem.facts.closed_form:
        reason = "curvature: Hessian without damping; its factorisation tells whether it is positive definite"
        return Hessian(problem), reason
    if problem.facts.linear:
        reason = (
            "curvature: GaussNewton without damping, here the Hessian itself: outputs are linear in the parameters and "
            "the loss is convex in them"
        )
        return GaussNewton(problem), reason
    kind: type[EmpiricalCurvature] = Hessian
    why = ""
    try:
        lowest, highest = Hessian(problem).spectrum()
    except DerivativeError as error:
        kind, why = GaussNewton, f"; {error}"
        lowest, highest = GaussNewton(problem).spectrum()
    if lowest > 1e-6 * highest:
        reason = f"positive definite (smallest eigenvalue {lowest:.1e})"
        return kind(problem), f"curvature: {kind.__name__} without damping, {reason}{why}"
    damping = max(0.0, -1.5 * lowest) + 1e-3 * highest
    reason = (
        f"curvature: {kind.__name__} + {damping:.2e}; its spectrum reaches from {lowest:.2e} to {highest:.2e}: "
        f"negative curvature cured by 1.5 times the most negative eigenvalue plus 1e-3 of the largest{why}"
    )
    return kind(problem, damping), reason


def choose_solver(problem: Objective, curvature: Curvature) -> tuple[Solver, str]:
    """A factorisation where it is cheap, else conjugate gradients with the preconditioner that suits the model.

    The relative residual asked of conjugate gradients is 1e-6 for linear models and 1e-5 for others. Given with the
    reason, one sentence; what counts as cheap are the constants above.

    >>> import torch
    >>> from upweight import Hessian, LinearProblem, Squared
    >>> problem = LinearProblem.fit(torch.eye(3), torch.ones(3), loss=Squared(), l2=0.1)
    >>> choose_solver(problem, Hessian(problem))
    (Exact(rtol=1e-06), 'solver: Exact, one factorisation of 3 rows')
    """
    if curvature.stages is not None:
        return BackSubstitution(), "solver: BackSubstitution, a pass from the last round to the first"
    if curvature.examples is None:
        if curvature.closed or curvature.p <= DENSE:
            return Exact(), f"solver: Exact, by the closed inverse of {type(curvature).__name__}"
        return ConjugateGradient(rtol=1e-5), f"solver: ConjugateGradient, p = {curvature.p}"
    if problem.linear is not None:
        return _solver_of_linear(problem, curvature)
    if curvature.examples.undamped.root() is not None:
        return Exact(), "solver: Exact, of a matrix that is diagonal"
    straight = problem.facts.straight
    whole = not straight and curvature.examples.undamped is problem.gauss_newton
    if problem.p <= DIRECT // 4 or (whole and _can_be_formed(problem, problem.n)):
        return Exact(), f"solver: Exact, one factorisation of p = {problem.p} rows"
    if straight:
        reason = (
            "without a preconditioner, since a loss that is linear in the outputs has no Gauss-Newton matrix"
        )
        return ConjugateGradient(rtol=1e-5), f"solver: ConjugateGradient {reason}"
    shape = _only_matrix(problem)
    if shape is not None and shape[1] <= WIDEST:
        return _preconditioned_by_ekfac(problem, curvature, *shape, rtol=1e-5)
    return _preconditioned_by_rows(problem, curvature, GaussNewton, rtol=1e-5)


def _solver_of_linear(problem: Objective, curvature: Curvature) -> tuple[Solver, str]:
    """The solver of a linear model: a factor of its smaller side, or conjugate gradients, preconditioned."""
    size = min(problem.p, problem.n * problem.facts.c)
    shape = _only_matrix(problem)
    assert shape is not None
    wide = shape[1] > WIDEST  # too many columns for the basis of a preconditioner
    if size <= DIRECT or (wide and size <= DENSE and size * problem.p <= ROOT):
        return Exact(), f"solver: Exact, one factorisation of {size} rows"
    if wide:
        return _preconditioned_by_rows(problem, curvature, Hessian, rtol=1e-6)
    return _preconditioned_by_ekfac(problem, curvature, *shape, rtol=1e-6)


def _only_matrix(problem: Objective) -> tuple[int, int] | None:
    """Rows (outputs) and columns (inputs) of the weight matrix that holds all parameters, if one does."""
    matrices = () if problem.layers is None else problem.layers.layout.matrices
    if len(matrices) != 1 or len(matrices[0].index) != problem.p:
        return None
    return matrices[0].rows, matrices[0].columns


def _can_be_formed(problem: Objective, rows: int) -> bool:
    """Whether the Gauss-Newton matrix of that many rows may be formed."""
    return problem.p <= DENSE and rows * problem.facts.c * problem.p**2 <= DENSE_WORK


def _preconditioned_by_rows(
    problem: Objective, curvature: Curvature, kind: type[EmpiricalCurvature], rtol: float
) -> tuple[Solver, str]:
    """Conjugate gradients with the matrix of `kind` of some rows: itself where it can be formed, else by Nystrom."""
    rows = max(2000, problem.n // 10)
    whole = _can_be_formed(problem, min(problem.n, rows))
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


def _preconditioned_by_ekfac(
    problem: Objective, curvature: Curvature, outputs: int, inputs: int, rtol: float
) -> tuple[Solver, str]:
    """Conjugate gradients with EKFAC of one layer, its leading directions kept whole."""
    rows = min(problem.n, max(4096, 10 * inputs))
    leading = min(LEADING, inputs, DIRECT // outputs)
    reason = (
        f"solver: ConjugateGradient preconditioned by EKFAC on {rows} rows with {leading} leading directions kept "
        f"whole, since p = {problem.p}"
    )
    closed = EKFAC(problem, curvature.damping, rows=rows, leading=leading)
    return ConjugateGradient(rtol=rtol, preconditioner=closed), reason
