"""Block conjugate gradients on full-data products: one pass and one Krylov space serve all right-hand sides."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..curvature.base import Curvature
from ..errors import IndefiniteError
from ..linalg.coordinates import Coordinates
from ..linalg.lanczos import indefinite
from ..runtime.progress import track
from ..types import Operator, Tensor, wide
from .accuracy import ACCURATE, Checked, Energy, bound, checked, own_operator
from .base import Inverse, Solution, Solver, Status

Apply = Callable[[Tensor], Tensor]
"""The inverse of a preconditioner: rows (k, p) -> rows (k, p)."""
GAIN = {torch.bfloat16: 0.03, torch.float16: 0.03, torch.float32: 1e-5, torch.float64: 1e-12}
"""What one sweep is asked to shrink a residual by at most; more is below the rounding of its products."""
ROUNDS = 20
"""A sweep of more than this many products beyond 2 p begins anew: its directions are no longer conjugate."""
UNSEEN = 0.01
"""The share that a random row has of an eigenvector may be missed below this, times its expected size: 0.8 % are."""
MOST_TRIED = 100
"""Products that the random row takes at most which tells whether a curvature is indefinite."""
COARSE = 1e-4
"""Rounding that the bound of an error may have, as a share of it."""
ROUNDING = 500
"""A precision is accurate enough to judge a residual that is this many times its rounding unit."""


@dataclass(frozen=True)
class ConjugateGradient(Solver):
    """Block conjugate gradients (Sec. 3; R12), preconditioned: rows share one Krylov space, and many take fewer steps.

    A row has converged when ||v - A s|| <= `rtol` ||v||. Sweeps run in the fastest precision that the curvature offers
    and the residual is recomputed accurately after each (iterative refinement): in the problem's precision, or in
    float32 where `rtol` is above 6e-5 and thus far above its rounding. Converged rows leave the next sweep; one that
    gains too little is followed by sweeps in the next precision. A curvature that may be indefinite is tried on a
    random right-hand side first; where that does not converge in a hundred products, or there is no preconditioner, its
    spectrum is looked at. Negative curvature is an error or a status, never an answer. Ctrl-C keeps what is finished
    (status "interrupted").

    Args:
        rtol: the largest relative residual that counts as converged, between 0 and 1.
        max_steps: products per row at most; None: 10 p + 200, at most 10,000.
        preconditioner: any curvature near A with a closed inverse (`EKFAC`, `Nystrom`), of the same size.

    Raises:
        ValueError: for numbers out of range and, at `prepare`, a preconditioner of another size.
        IndefiniteError: at `prepare`, where A is found to have negative eigenvalues.

    >>> import torch
    >>> from upweight import Dense
    >>> inverse = ConjugateGradient(rtol=1e-10).prepare(Dense(torch.diag(torch.tensor([1.0, 4.0]).double())))
    >>> inverse(torch.ones(1, 2)).value
    tensor([[1.0000, 0.2500]], dtype=torch.float64)
    """

    rtol: float = 1e-6
    max_steps: int | None = None
    preconditioner: Curvature | None = None

    def __post_init__(self) -> None:
        if not 0 < self.rtol < 1:
            raise ValueError(f"rtol must lie between 0 and 1, got {self.rtol}")
        if self.max_steps is not None and self.max_steps < 1:
            raise ValueError(f"max_steps must be >= 1, got {self.max_steps}")

    def prepare(self, curvature: Curvature) -> Inverse:
        closed, there = self.preconditioner, curvature.coordinates
        if closed is not None and closed.p != curvature.p:
            raise ValueError(f"the preconditioner has p = {closed.p}, the curvature {curvature.p}")
        budget = self.max_steps or min(10 * curvature.p + 10 * ROUNDS, 10_000)
        precisions = curvature.precisions
        enough = next(
            (i for i, d in enumerate(precisions) if ROUNDING * torch.finfo(d).eps * there.reach <= self.rtol),
            len(precisions) - 1,
        )
        operators = {precision: own_operator(curvature, precision) for precision in precisions}
        helper = _Preconditioner(closed, there, curvature.dtype)
        if not curvature.semidefinite:
            judge, ended = precisions[enough], None
            if closed is not None:
                ended = _solve_random_row(curvature, operators[judge], helper.of(wide(judge)), wide(judge))
            if ended is not Status.CONVERGED:
                _look_at_spectrum(curvature, met=ended is Status.NEGATIVE_CURVATURE)
        coarse = next(
            d for d in precisions if torch.finfo(d).eps * there.reach <= COARSE or d == precisions[-1]
        )
        energy = bound(curvature, lambda rows: operators[coarse](rows.to(wide(coarse))))
        refining = _Refining(operators, helper, enough, energy, self.rtol, budget)

        def solve(rows: Tensor) -> Solution:
            found = refining.solve(there.inward(rows))
            return dataclasses.replace(found, value=there.outward(found.value))

        return Inverse(curvature, solve)


class _Preconditioner:
    """The inverse of the preconditioner in the curvature's own coordinates, in every precision that is asked for."""

    def __init__(self, closed: Curvature | None, there: Coordinates, best: torch.dtype) -> None:
        self.closed, self.there, self.best = closed, there, best
        self.found: dict[torch.dtype, Apply] = {}

    def of(self, dtype: torch.dtype) -> Apply:
        closed, there = self.closed, self.there
        if closed is None:
            return _nothing
        if dtype not in self.found:
            # An explicit matrix affords its best precision, and mixed units need it.
            own = dtype if there.ordinary else self.best
            factor = closed.factor(own if closed.closed else None)

            def inverse(rows: Tensor) -> Tensor:
                inside = there.derivatives(rows.to(own))
                return there.parameters(factor.solve(inside)).to(rows.dtype)

            self.found[dtype] = inverse
        return self.found[dtype]


def _nothing(rows: Tensor) -> Tensor:
    return rows


def _solve_random_row(
    curvature: Curvature, operator: Operator, precondition: Apply, dtype: torch.dtype
) -> Status:
    """How a random row's solve ends: converged, it has met no negative curvature, and there is none.

    While all Ritz values are positive, the residual polynomial is at least 1 at every negative eigenvalue: what a
    random row holds of its eigenvector, about 1/sqrt(p), is still in the residual. It is solved to less than that.
    """
    row = torch.randn(1, curvature.p, generator=torch.Generator().manual_seed(0)).to(curvature.device, dtype)
    target = torch.full((1,), max(UNSEEN / curvature.p**0.5, GAIN[dtype])).to(row)
    ended = _sweep(row, operator, precondition, target, MOST_TRIED)[2]
    if ended is Status.INTERRUPTED:
        raise KeyboardInterrupt
    return ended


def _look_at_spectrum(curvature: Curvature, met: bool) -> None:
    """Raise if it has negative eigenvalues, or if negative curvature was `met`."""
    lowest, highest = curvature.spectrum()
    if lowest < -1e-6 * abs(highest) or (met and lowest < 0):
        raise indefinite(lowest)
    if met:
        raise IndefiniteError(
            "the curvature is indefinite: negative curvature was met, too small beside the rest for its "
            f"eigenvalue to be told. Raise the damping (now {curvature.damping:.1e}), or take GaussNewton in the "
            "place of a Hessian"
        )


@dataclass(frozen=True)
class _Refining:
    """Sweeps of conjugate gradients on the residual, recomputed accurately after each, in the curvature's coordinates.

    Sweeps climb a ladder: the fastest precision first, the best last, and after that the best without the
    preconditioner, which may be worse than none. Residuals are judged in the precision `enough`, or in that of the
    sweeps where these are beyond it.
    """

    operators: dict[torch.dtype, Operator]
    helper: _Preconditioner
    enough: int
    energy: Energy | None
    rtol: float
    budget: int

    def solve(self, rows: Tensor) -> Solution:
        precisions = list(self.operators)
        ladder: list[tuple[int, bool]] = [(i, True) for i in range(len(precisions))]
        if self.helper.closed is not None:
            ladder.append((len(precisions) - 1, False))
        value, left = torch.zeros_like(rows), rows.clone()
        norm = rows.norm(dim=1)
        zero = norm == 0
        norm = torch.where(zero, torch.ones_like(norm), norm)
        steps = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
        residual, error = left.norm(dim=1) / norm, torch.where(zero, 0.0, torch.inf).to(rows)
        status = [Status.CONVERGED if nothing else Status.NOT_CONVERGED for nothing in zero.tolist()]
        while True:
            open_rows = [
                i for i, s in enumerate(status) if s is Status.NOT_CONVERGED and int(steps[i]) < self.budget
            ]
            if not open_rows:
                break
            active = torch.tensor(open_rows, device=rows.device)
            (rung, helped), last = ladder[0], len(ladder) == 1
            precision, judge = precisions[rung], precisions[max(rung, self.enough)]
            dtype, size = wide(precision), left[active].norm(dim=1, keepdim=True)
            step, taken, ended = _sweep(
                (left[active] / size).to(dtype),
                self.operators[precision],
                self.helper.of(dtype) if helped else _nothing,
                self._target(residual[active], error[active], precision).to(dtype),
                min(self.budget - int(steps[active].max()), 2 * rows.shape[1] + ROUNDS),
            )
            value[active] += size * step.to(rows.dtype)
            steps[active] += taken
            before, far = residual[active], error[active]
            found = self._look(judge, value[active], rows[active])
            left[active], residual[active], error[active] = found
            good = self._good(residual, error)
            for i in open_rows:
                if ended is Status.INTERRUPTED or (ended is Status.NEGATIVE_CURVATURE and last):
                    status[i] = ended
                elif bool(good[i]):
                    status[i] = Status.CONVERGED
            if ended is Status.INTERRUPTED:
                break
            gain = torch.minimum(residual[active] / before, error[active] / far).nan_to_num(1.0)
            if not bool(((gain <= 0.3) | good[active]).all()):
                if last and not bool((gain <= 0.9).any()):
                    break  # at the limit of the precision, or not finite: report what was reached
                ladder = ladder if last else ladder[1:]
        bounds = None if self.energy is None else error
        return Solution(value, residual, steps.cpu(), tuple(status), wide(precisions[self.enough]), bounds)

    def _look(self, judge: torch.dtype, value: Tensor, rows: Tensor) -> Checked:
        judged, operator = wide(judge), self.operators[judge]
        return checked(lambda s: operator(s.to(judged)).to(rows), self.energy, value, rows)

    def _good(self, residual: Tensor, error: Tensor) -> Tensor:
        """Which rows meet the tolerance, with no bound of their error that speaks against them."""
        return (residual <= self.rtol) & ~(error > max(ACCURATE, self.rtol))

    def _target(self, residual: Tensor, error: Tensor, precision: torch.dtype) -> Tensor:
        """What a sweep is asked to shrink each residual by.

        Half of what is needed: the sweep's own residual drifts from the true one, and one more costs more than a step.
        """
        by_error = torch.where(error.isfinite(), max(ACCURATE, self.rtol) / error, 1.0)
        return (0.5 * torch.minimum(self.rtol / residual, by_error)).clamp(min=GAIN[precision], max=0.5)


def _sweep(
    rows: Tensor, operator: Operator, precondition: Apply, target: Tensor, budget: int
) -> tuple[Tensor, int, Status]:
    """Block conjugate gradients from zero until each row's residual has shrunk by its target.

    All rows share one Krylov space (O'Leary, 1980). The residuals are held as shares of a basis that is orthonormal in
    the metric of the preconditioner (Dubrulle, 2001), so that rows which are nearly combinations of others do no harm:
    directions that drown in rounding are left to the next sweep. For one row this is the plain method.
    """
    value, taken = torch.zeros_like(rows), 0
    goal = target * rows.norm(dim=1)
    try:
        basis, directions, shares = _orthonormal(rows, precondition)  # rows = shares^T basis
        if not len(basis):
            return value, taken, Status.NOT_CONVERGED
        for taken in track(range(1, budget + 1), "conjugate gradients", None):
            images = operator(directions)
            if not bool(images.isfinite().all()):
                break
            inverse = _inverse(directions, images)
            if inverse is None:
                return value, taken, Status.NEGATIVE_CURVATURE
            if not bool(inverse.any()):  # the end of the Krylov space
                break
            value += (inverse @ shares).T @ directions
            left = basis - inverse @ images
            if bool(((shares.T @ left).norm(dim=1) <= goal).all()):
                return value, taken, Status.CONVERGED
            basis, new, change = _orthonormal(left, precondition)
            directions, shares = new + change @ directions, change @ shares
            if not len(basis):
                break
    except KeyboardInterrupt:
        return value, taken, Status.INTERRUPTED
    return value, taken, Status.NOT_CONVERGED


def _orthonormal(rows: Tensor, precondition: Apply) -> tuple[Tensor, Tensor, Tensor]:
    """Q, M^-1 Q and C with rows = C^T Q and Q M^-1 Q^T = I, M the preconditioner; what drowns in rounding left out."""
    images = precondition(rows)
    gram = rows @ images.T
    if not bool(gram.isfinite().all()):
        return rows[:0], rows[:0], rows[:0] @ rows.T
    values, vectors = _eigh(gram)
    kept = values > max(10 * torch.finfo(rows.dtype).eps * float(values[-1]), 0.0)
    root, vectors = values[kept].sqrt(), vectors[:, kept]
    turn = (vectors / root).T.to(rows)
    return turn @ rows, turn @ images, (vectors * root).T.to(rows)


def _inverse(directions: Tensor, images: Tensor) -> Tensor | None:
    """The pseudo-inverse of D A D^T, or None where it has a negative eigenvalue beyond rounding."""
    size = directions.norm(dim=1).double().cpu()
    gram = (directions @ images.T).double().cpu() / (size * size[:, None])
    if not bool(gram.isfinite().all()):
        return torch.zeros_like(gram).to(directions)
    values, vectors = _eigh(gram)
    eps = torch.finfo(directions.dtype).eps
    reach = float((images.norm(dim=1).double().cpu() / size).max())
    if float(values[0]) < -(1e3 + len(values)) * eps * reach:
        return None
    kept = values > len(values) * eps * values[-1]
    vectors = vectors[:, kept] / size[:, None]
    return ((vectors / values[kept]) @ vectors.T).to(directions)


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and -vectors of a small matrix that is symmetric but for rounding, on the processor in float64."""
    found = torch.linalg.eigh((matrix + matrix.T).double().cpu() / 2)
    return found.eigenvalues, found.eigenvectors
