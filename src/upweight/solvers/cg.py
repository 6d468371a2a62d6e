"""Conjugate gradients on full-data products: one pass over the data serves all right-hand sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..curvature import Curvature
from ..factor import indefinite
from ..objective import Operator
from ..progress import track
from ..types import Tensor, wide
from .base import Inverse, Solution, Solver, Status

Apply = Callable[[Tensor], Tensor]
GAIN = {torch.bfloat16: 0.03, torch.float16: 0.03, torch.float32: 1e-5, torch.float64: 1e-12}
"""What one sweep is asked to shrink a residual by at most; more is below the rounding of its products."""
ROUNDING = 500
"""A precision is accurate enough to judge a residual that is this many times its rounding unit."""


@dataclass(frozen=True)
class ConjugateGradient(Solver):
    """Preconditioned conjugate gradients (Sec. 3), all rows at once, each with its own coefficients and its own stop.

    A row stops when ||v - A s|| <= `rtol` ||v||; converged rows leave the products. Sweeps run in the fastest precision
    that the curvature offers and the residual is recomputed accurately after each (iterative refinement): in the
    problem's precision, or in float32 where `rtol` is above 6e-5 and thus far above its rounding. A sweep that gains
    too little is followed by sweeps in the next precision. `max_steps` (default 10 p, at most
    10,000) counts products. `preconditioner` is any curvature with a closed inverse, of the same size.
    Negative curvature, met on the way or seen in the spectrum, is a status, never an answer. Ctrl-C keeps what is
    finished (status "interrupted").

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
        if self.preconditioner is not None and self.preconditioner.p != curvature.p:
            raise ValueError(
                f"the preconditioner has p = {self.preconditioner.p}, the curvature {curvature.p}"
            )
        if not curvature.semidefinite:
            lowest, highest = curvature.spectrum()
            if lowest < -1e-6 * abs(highest):
                raise indefinite(lowest)
        factors: dict[torch.dtype, Apply] = {}

        def precondition(dtype: torch.dtype) -> Apply:
            if dtype not in factors:
                closed = self.preconditioner
                factors[dtype] = (lambda rows: rows) if closed is None else closed.factor(dtype).solve
            return factors[dtype]

        budget = self.max_steps or min(10 * curvature.p, 10_000)
        enough = [
            i for i, d in enumerate(curvature.precisions) if ROUNDING * torch.finfo(d).eps <= self.rtol
        ] or [len(curvature.precisions) - 1]
        precisions = curvature.precisions[: enough[0] + 1]
        operators = {precision: curvature.operator(precision) for precision in precisions}

        def solve(rows: Tensor) -> Solution:
            return _refine(rows, operators, precondition, self.rtol, budget)

        return Inverse(curvature, solve)


def _refine(
    rows: Tensor,
    operators: dict[torch.dtype, Operator],
    precondition: Callable[[torch.dtype], Apply],
    rtol: float,
    budget: int,
) -> Solution:
    """Sweeps of conjugate gradients on the residual, recomputed with the last and most accurate operator after each."""
    ladder = list(operators)
    accurate, judged = operators[ladder[-1]], wide(ladder[-1])
    value = torch.zeros_like(rows)
    steps = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    left = rows.clone()
    norm = rows.norm(dim=1)
    status = [Status.CONVERGED if size == 0 else Status.NOT_CONVERGED for size in norm.tolist()]
    norm = torch.where(norm > 0, norm, torch.ones_like(norm))
    residual = left.norm(dim=1) / norm
    while True:
        open_rows = [i for i, s in enumerate(status) if s is Status.NOT_CONVERGED and int(steps[i]) < budget]
        if not open_rows:
            break
        active = torch.tensor(open_rows, device=rows.device)
        precision, last = ladder[0], len(ladder) == 1
        # Half of rtol: the sweep's own residual drifts from the true one, and one more sweep costs more than a step.
        target = (0.5 * rtol / residual[active]).clamp(min=GAIN[precision], max=0.5)
        size = left[active].norm(dim=1, keepdim=True)
        dtype = wide(precision)
        step, taken, ended = _sweep(
            (left[active] / size).to(dtype),
            operators[precision],
            precondition(dtype),
            target.to(dtype),
            budget - int(steps[active].max()),
        )
        value[active] += size * step.to(rows.dtype)
        steps[active] += taken
        # Scaled to the size of the row: float32 must not underflow.
        unit = norm[active, None]
        left[active] = rows[active] - unit * accurate((value[active] / unit).to(judged)).to(rows.dtype)
        before, residual[active] = residual[active], left[active].norm(dim=1) / norm[active]
        for j, i in enumerate(open_rows):
            if ended[j] is Status.INTERRUPTED or (ended[j] is Status.NEGATIVE_CURVATURE and last):
                status[i] = ended[j]
            elif float(residual[i]) <= rtol:
                status[i] = Status.CONVERGED
        if Status.INTERRUPTED in ended:
            break
        gain = residual[active] / before
        if bool(((gain > 0.3) & (residual[active] > rtol)).any()):
            if last and bool((gain > 0.9).all()):
                break  # at the limit of the precision: report what was reached
            ladder = ladder if last else ladder[1:]
    return Solution(value, residual, steps.cpu(), tuple(status), judged)


def _sweep(
    rows: Tensor, operator: Operator, precondition: Apply, target: Tensor, budget: int
) -> tuple[Tensor, Tensor, list[Status]]:
    """Conjugate gradients from zero until each row's residual has shrunk by its target."""
    value = torch.zeros_like(rows)
    taken = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    ended = [Status.NOT_CONVERGED] * len(rows)
    size = rows.norm(dim=1)
    active = torch.arange(len(rows), device=rows.device)
    r = rows.clone()
    z = precondition(r)
    d = z.clone()
    rz = (r * z).sum(1)
    try:
        for _ in track(range(budget), "conjugate gradients", None):
            q = operator(d)
            dq = (d * q).sum(1)
            # Negative curvature beyond rounding; a vanished direction is the end of the Krylov space, not negative.
            negative = dq < -1e3 * torch.finfo(d.dtype).eps * d.norm(dim=1) * q.norm(dim=1)
            alpha = torch.where(
                dq > 0, rz / torch.where(dq > 0, dq, torch.ones_like(dq)), torch.zeros_like(dq)
            )
            value[active] += alpha[:, None] * d
            r = r - alpha[:, None] * q
            taken[active] += 1
            converged = r.norm(dim=1) <= target[active] * size[active]
            for i in active[negative].tolist():
                ended[i] = Status.NEGATIVE_CURVATURE
            for i in active[converged & ~negative].tolist():
                ended[i] = Status.CONVERGED
            go_on = ~(converged | negative | (dq <= 0))
            if not bool(go_on.any()):
                break
            active, r, d, rz = active[go_on], r[go_on], d[go_on], rz[go_on]
            z = precondition(r)
            rz, last = (r * z).sum(1), rz
            d = z + (rz / last)[:, None] * d
    except KeyboardInterrupt:
        for i in active.tolist():
            ended[i] = Status.INTERRUPTED
    return value, taken, ended
