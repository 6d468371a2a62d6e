"""Support vector machines without an intercept, trained with the true hinge to machine precision.

Refits are the judge of leave-one-out predictions, and one removal moves a loss by 1e-4 or less, so the judge has to be
far more exact than LIBLINEAR or LIBSVM are. Method of multipliers on the dual variables, each step by a semismooth
Newton method; for a quadratic programme it ends at the optimum after finitely many steps. The duality gap is measured.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import brentq

from upweight.runtime.progress import track

NEWTON = 60
ROUNDS = 40


class Machine(NamedTuple):
    """Weights w (d,), dual variables a (n,) in [0, C] and the duality gap relative to the primal objective."""

    w: np.ndarray
    a: np.ndarray
    gap: float


def train(
    X: np.ndarray,
    y: np.ndarray,
    l2: float,
    *,
    start: np.ndarray | None = None,
    stiffness: float = 0.1,
    tolerance: float = 1e-12,
) -> Machine:
    """Minimise l2/2 ||w||^2 + mean hinge(y X w); its dual has C = 1/(l2 n). `start`: dual variables to start from.

    `stiffness` is the first multiplier of the penalty, in units of C: larger ones need fewer rounds of more steps.
    """
    n = len(y)
    C = 1.0 / (l2 * n)
    Z = X * y[:, None]
    a = np.zeros(n) if start is None else np.clip(start, 0.0, C)
    w = a @ Z
    sigma = stiffness * C
    gap = np.inf
    for _ in range(ROUNDS):
        w, a = _inner(Z, a, w, sigma, C)
        polished = _polish(Z, a, C)
        gap = _gap(Z, polished, C)
        if gap <= tolerance:
            return Machine(polished @ Z, polished, gap)
        sigma = min(4 * sigma, 1e3 * C)
    raise RuntimeError(f"the hinge was not minimised: relative duality gap {gap:.1e}, wanted {tolerance:.0e}")


def _inner(
    Z: np.ndarray, a: np.ndarray, w: np.ndarray, sigma: float, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the method of multipliers: w solves w = Z^T clip(a + sigma (1 - Z w), 0, C)."""
    for _ in range(NEWTON):
        v = a + sigma * (1.0 - Z @ w)
        gradient = w - np.clip(v, 0.0, C) @ Z
        if np.linalg.norm(gradient) <= 1e-8 * np.linalg.norm(w):
            break
        step = -_solve(Z[(v > 0) & (v < C)], sigma, gradient)
        w = w + _length(w, step, v, sigma, Z @ step, C) * step
    return w, np.clip(a + sigma * (1.0 - Z @ w), 0.0, C)


def _polish(Z: np.ndarray, a: np.ndarray, C: float) -> np.ndarray:
    """The dual variables that put the points strictly between 0 and C on the margin exactly, where feasible."""
    free = (a > 0) & (a < C)
    F = Z[free]
    if not 0 < len(F) <= Z.shape[1]:
        return a
    polished = a.copy()
    fixed = np.where(free, 0.0, a) @ Z
    try:
        polished[free] = cho_solve(cho_factor(F @ F.T), 1.0 - F @ fixed)
    except np.linalg.LinAlgError:  # points that repeat one another
        return a
    return np.clip(polished, 0.0, C)


def _length(
    w: np.ndarray, step: np.ndarray, v: np.ndarray, sigma: float, moved: np.ndarray, C: float
) -> float:
    """The exact minimum along the step: the slope there is piecewise linear and increasing."""
    along, square = float(step @ w), float(step @ step)

    def slope(t: float) -> float:
        return along + t * square - float(np.clip(v - t * sigma * moved, 0.0, C) @ moved)

    if abs(slope(1.0)) <= 1e-9 * abs(slope(0.0)):
        return 1.0
    high = 1.0
    while slope(high) < 0 and high < 1e6:
        high *= 2
    return float(brentq(slope, 0.0, high, xtol=1e-12)) if slope(0.0) < 0 < slope(high) else 1.0


def _solve(F: np.ndarray, sigma: float, rhs: np.ndarray) -> np.ndarray:
    """(I + sigma F^T F)^-1 rhs, on the smaller side."""
    if len(F) <= F.shape[1]:
        inner = F @ F.T
        inner[np.diag_indices_from(inner)] += 1.0 / sigma
        return rhs - F.T @ cho_solve(cho_factor(inner), F @ rhs)
    full = sigma * (F.T @ F)
    full[np.diag_indices_from(full)] += 1.0
    return cho_solve(cho_factor(full), rhs)


def _gap(Z: np.ndarray, a: np.ndarray, C: float) -> float:
    """(primal - dual) / primal at w = Z^T a; both are times 1/l2 the objective."""
    w = a @ Z
    primal = 0.5 * w @ w + C * np.maximum(0.0, 1.0 - Z @ w).sum()
    return float((primal - (a.sum() - 0.5 * w @ w)) / primal)


def bounds(machine: Machine, l2: float) -> tuple[np.ndarray, np.ndarray]:
    """Which points lie on the margin, strictly between the dual bounds, and which inside it."""
    C = 1 / (l2 * len(machine.a))
    inside = machine.a >= (1 - 1e-9) * C
    return (machine.a > 1e-9 * C) & ~inside, inside


def train_without(X: np.ndarray, y: np.ndarray, l2: float, row: int, full: Machine) -> Machine:
    """Retrained without that row; l2 stays on the mean loss, now of n - 1, so C grows by n/(n - 1)."""
    kept = np.delete(np.arange(len(y)), row)
    start = full.a[kept] * (len(y) / len(kept))
    return train(X[kept], y[kept], l2, start=start, stiffness=1e3)


def refits(
    X: np.ndarray, y: np.ndarray, l2: float, rows: list[int], full: Machine, test: Any, kept: Path
) -> dict[int, tuple[float, float]]:
    """Row -> change of the hinge loss of `test` (x, label) without it, duality gap. Resumes from `kept`."""
    done = {int(row): v for row, v in json.loads(kept.read_text()).items()} if kept.exists() else {}
    x, label = test
    before = max(0.0, 1 - label * float(x @ full.w))
    todo = [row for row in rows if row not in done]
    for row in track(todo, "retraining", len(todo)):
        machine = train_without(X, y, l2, row, full)
        done[row] = (max(0.0, 1 - label * float(x @ machine.w)) - before, machine.gap)
        kept.write_text(json.dumps(done))
    return {row: (done[row][0], done[row][1]) for row in rows}
