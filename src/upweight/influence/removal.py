"""What happens when sets of training examples are removed from a linear model, without retraining.

With A the Hessian of the *total* objective and S the removed set, a Newton step moves the parameters by
(A - A_S)^-1 g_S, where A_S and g_S are the set's own curvature and gradient (Woodbury; requirement B2). First order
(Eq. 2) replaces (A - A_S)^-1 by A^-1, which shrinks effects by about one minus the set's leverage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from ..curvature.base import EmpiricalCurvature
from ..errors import IndefiniteError
from ..linalg.factorizations import DualFactor, Factor
from ..linear.edits import penalty_factor
from ..linear.problem import LinearProblem
from ..measures import Measure
from ..runtime.notebook import as_html
from ..runtime.progress import track
from ..types import Tensor

HELD_BYTES = 128 << 20
"""Vectors of length p that are held at once."""


@dataclass(frozen=True, eq=False)
class Removal:
    """Predicted change of m test measures (rows) if each of g sets (columns) is removed, (m, g) each.

    Positive = the measure rises, so for a loss the set is helpful. In the measure's unit, 1/n included.
    `first_order` is the sum of the members' -I/n (Eq. 2). `rescaled` sums what each member's removal *alone* does, its
    leverage accounted for (B1), the measure linearised. `newton` is the set's own Newton step, the measure evaluated
    at the shifted parameters (B2): its distance from `rescaled` is what the members do only together. The last two are
    None for models that are not linear. `low` and `high` enclose the exact change by retraining (B3), if asked for.
    """

    groups: pd.Index
    sizes: Int[Tensor, " g"]
    first_order: Float[Tensor, "m g"]
    rescaled: Float[Tensor, "m g"] | None = None
    newton: Float[Tensor, "m g"] | None = None
    low: Float[Tensor, "m g"] | None = None
    high: Float[Tensor, "m g"] | None = None
    measure: str = "loss"

    def to_frame(self) -> pd.DataFrame:
        """A line per test row and group: size, the predictions, additivity (rescaled / newton), the interval."""
        m, g = self.first_order.shape
        table = {
            "test row": np.repeat(np.arange(m), g),
            "group": np.tile(self.groups.to_numpy(), m),
            "size": np.tile(self.sizes.numpy(), m),
        }
        for name in ("first_order", "rescaled", "newton", "low", "high"):
            values = getattr(self, name)
            if values is not None:
                table[name.replace("_", " ")] = values.flatten().numpy()
        frame = pd.DataFrame(table)
        if self.rescaled is not None:
            frame["sum of members / set"] = frame["rescaled"] / frame["newton"]
        return frame

    def __repr__(self) -> str:
        m, g = self.first_order.shape
        head = f"Removal of {g} groups: predicted change of the {self.measure} of {m} "
        return (
            f"{head}test rows (positive = it would rise)\n{self.to_frame().head(10).to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        return as_html(f"Predicted change of the {self.measure}; positive = it would rise.", self.to_frame())


@dataclass(frozen=True, eq=False)
class LeaveOneOut:
    """Each training row predicted without itself, from one factorisation (B5): approximate leave-one-out.

    `outputs` (n, c) are the logits or values without the row, `loss` (n,) is the row's own loss there, `leverage` (n,)
    is the share of its own fit that the row itself carries, w x^T A^-1 x (a trace for c > 1; the sum over rows is the
    effective number of parameters).
    """

    outputs: Float[Tensor, "n c"]
    loss: Float[Tensor, " n"]
    leverage: Float[Tensor, " n"]


# -- Newton steps by Woodbury --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Total:
    """The Hessian of the total objective, n * A, of which `size` examples will be removed.

    With keep="mean" every example brings its share of the penalty, which leaves with it.
    """

    problem: LinearProblem
    factor: Factor
    size: int

    @classmethod
    def of(cls, curvature: EmpiricalCurvature, size: int) -> Total:
        """Factorised once for all sets of that size."""
        problem = curvature.problem
        assert isinstance(problem, LinearProblem)
        if size == 0:  # the curvature itself, which may be factorised already
            return cls(problem, curvature.factor(torch.float64), 0)
        kept = problem.at(problem.theta)
        kept.l2 = problem.l2 * penalty_factor(problem, size) * (problem.n - size) / problem.n
        return cls(problem, replace(curvature, problem=kept).factor(torch.float64), size)

    def solve(self, rows: Float[Tensor, "*k p"]) -> Float[Tensor, "*k p"]:
        """The inverse of the total Hessian, nothing removed but the penalty's share."""
        return self.factor.solve(rows.flatten(0, -2)).view(rows.shape) / self.problem.n


class Downdated:
    """(n A - C^T C)^-1 of G sets at once, C (G, q, p) the roots of their curvature, q <= p."""

    def __init__(self, total: Total, C: Float[Tensor, "G q p"]) -> None:
        self.total, self.C = total, C
        self.F = total.solve(C)
        self.overlap = C @ self.F.mT
        eye = torch.eye(C.shape[1], dtype=C.dtype)
        self.lower, failed = torch.linalg.cholesky_ex(eye - self.overlap)
        if bool(failed.any()):
            raise IndefiniteError(
                "without these examples the curvature is singular: some direction is fitted by them alone; train with "
                "a penalty (l2 > 0) or remove fewer"
            )

    def solve(self, rows: Float[Tensor, "G s p"]) -> Float[Tensor, "G s p"]:
        """Row by row, each set with its own inverse."""
        base = self.total.solve(rows)
        return base + torch.cholesky_solve(self.C @ base.mT, self.lower).mT @ self.F

    @property
    def leverage(self) -> Float[Tensor, " G"]:
        """The largest share of a direction's curvature that the set carries, < 1."""
        return torch.linalg.eigvalsh(self.overlap)[:, -1]


def _pieces(problem: LinearProblem, sets: list[Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Sets of equal size in batches: their places, gradients (G, p) and curvature roots C (G, q, p)."""
    held = max(1, HELD_BYTES // (8 * problem.p * problem.c))
    by_size: dict[int, list[int]] = {}
    for j, rows in enumerate(sets):
        by_size.setdefault(len(rows), []).append(j)
    for size, places in sorted(by_size.items()):
        for start in range(0, len(places), max(1, held // size)):
            batch = places[start : start + max(1, held // size)]
            if size <= held:
                index = torch.cat([sets[j] for j in batch])
                g = problem.train_gradients(index).view(len(batch), size, -1).sum(1)
                C = problem.curvature_root(index).view(len(batch), size * problem.c, -1)
            else:
                parts = sets[batch[0]].split(held)
                g = torch.stack([problem.train_gradients(part).sum(0) for part in parts]).sum(0, keepdim=True)
                C = problem.curvature_root(parts[0]).flatten(0, 1)[None]
                for part in parts[1:]:
                    C = _thin(torch.cat([C, problem.curvature_root(part).flatten(0, 1)[None]], dim=1))
            yield batch, g, _thin(C)


def _thin(C: Float[Tensor, "G q p"]) -> Float[Tensor, "G s p"]:
    """The same C^T C from at most p rows."""
    return C if C.shape[1] <= C.shape[2] else torch.linalg.qr(C, mode="r").R


def newton(
    curvature: EmpiricalCurvature, sets: list[Tensor], what: str = "removing sets"
) -> Iterator[tuple[list[int], Downdated, Float[Tensor, "G p"]]]:
    """Batches of sets: their places, downdated inverses and the Newton steps of the parameters."""
    problem = curvature.problem
    assert isinstance(problem, LinearProblem)
    totals: dict[int, Total] = {}
    for batch, g, C in track(_pieces(problem, sets), what, None):
        size = len(sets[batch[0]]) if problem.keep == "mean" else 0
        if size not in totals:
            totals = {size: Total.of(curvature, size)}
        inverse = Downdated(totals[size], C)
        yield batch, inverse, inverse.solve(g[:, None])[:, 0]


def of_sets(
    curvature: EmpiricalCurvature, sets: list[Tensor], test: Any, measure: Measure | None = None
) -> tuple[Float[Tensor, "m g"], Float[Tensor, "m g"]]:
    """The rescaled (B1) and the Newton (B2) prediction of each measure's change."""
    problem = curvature.problem
    assert isinstance(problem, LinearProblem)
    V = problem.test_gradients(test, measure)
    baseline = problem.evaluate(test, measure)
    changes = torch.empty(len(V), len(sets), dtype=torch.float64)
    for batch, _, step in newton(curvature, sets):
        changes[:, batch] = (problem.evaluate_each(test, problem.theta + step, measure) - baseline).T
    members = torch.cat(sets).unique()
    alone = torch.empty(len(V), problem.n, dtype=torch.float64)
    for batch, _, step in newton(curvature, list(members.split(1)), "removing members alone"):
        alone[:, members[batch]] = V @ step.T
    rescaled = torch.stack([alone[:, rows].sum(1) for rows in sets], dim=1)
    return rescaled, changes


def own_kernels(total: Total, E: Float[Tensor, "b c p"]) -> Float[Tensor, "b c c"]:
    """X_i A^-1 X_i^T of each example, from the gradients of its outputs."""
    if E.shape[1] == 1:
        return (total.factor.quadratic(E[:, 0]) / total.problem.n)[:, None, None]
    return E @ total.solve(E).mT


def all_kernels(total: Total) -> Float[Tensor, " n"] | None:
    """The same of all training examples at once where a model of one output is solved on the dual side."""
    problem, factor = total.problem, total.factor
    if problem.c > 1 or not isinstance(factor, DualFactor):
        return None
    w = problem._derivatives(torch.float64).a[:, 0]
    flat = (w < 1e-10 * w.max()).nonzero()[:, 0]
    found = factor.hat / w
    if len(flat):
        E = problem.output_gradients(problem.train_batch(flat))
        found[flat] = own_kernels(total, E)[:, 0, 0]
    return found


def leave_one_out(curvature: EmpiricalCurvature) -> LeaveOneOut:
    """Every training row predicted without itself: eta_i + K_i rho_i, K_i = X_i A^-1 X_i^T (c, c) (B5).

    With z = X_i step = (I - K W)^-1 (K r + X_i b), b the step that the penalty's share alone makes.
    """
    problem = curvature.problem
    assert isinstance(problem, LinearProblem)
    total = Total.of(curvature, 1 if problem.keep == "mean" else 0)
    b = total.solve(problem.folded_penalty[None])[0]
    parts = problem._derivatives(torch.float64)
    eta = problem._outputs(problem.design, problem.theta)
    pulled = problem._outputs(problem.design, b)
    kernels = all_kernels(total)
    shift = torch.empty_like(eta)
    leverage = torch.empty(problem.n, dtype=torch.float64)
    held = max(1, HELD_BYTES // (8 * problem.p * problem.c))
    starts = range(0, problem.n, held)
    for start in track(starts, "leave-one-out", len(starts)):
        index = torch.arange(start, min(start + held, problem.n))
        if kernels is None:
            K = own_kernels(total, problem.output_gradients(problem.train_batch(index)))
        else:
            K = kernels[index, None, None]
        own = parts.take(index)
        KW = own.curve(K).mT
        right = K @ own.r[:, :, None] + pulled[index, :, None]
        shift[index] = torch.linalg.solve(torch.eye(problem.c, dtype=K.dtype) - KW, right)[:, :, 0]
        leverage[index] = KW.diagonal(dim1=1, dim2=2).sum(1)
    outputs = eta + shift
    return LeaveOneOut(outputs, problem.loss.value(outputs, problem.y), leverage)
