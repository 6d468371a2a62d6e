"""Support vector machines without an intercept, trained with the true hinge to machine precision.

Refits are the judge of leave-one-out predictions, and one removal moves a loss by 1e-4 or less, so the judge has to be
far more exact than LIBLINEAR or LIBSVM are. Method of multipliers on the dual variables, each step by a semismooth
Newton method; for a quadratic programme it ends at the optimum after finitely many steps. The duality gap is measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_factor, cho_solve

NEWTON = 100
ROUNDS = 60


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
    stiffness: float = 10.0,
    tolerance: float = 1e-12,
) -> Machine:
    """Minimise l2/2 ||w||^2 + mean hinge(y X w): the dual form with C = 1/(l2 n). `start`: dual variables to start from."""
    n = len(y)
    C = 1.0 / (l2 * n)
    Z = X * y[:, None]
    a = np.zeros(n) if start is None else np.clip(start, 0.0, C)
    w = a @ Z
    sigma = stiffness * C
    gap = np.inf
    for _ in range(ROUNDS):
        w, a = _inner(Z, a, w, sigma, C)
        gap = _gap(Z, a, C)
        if gap <= tolerance:
            break
        sigma *= 4
    return Machine(a @ Z, a, gap)


def _inner(
    Z: np.ndarray, a: np.ndarray, w: np.ndarray, sigma: float, C: float
) -> tuple[np.ndarray, np.ndarray]:
    """One step of the method of multipliers: w solves w = Z^T clip(a + sigma (1 - Z w), 0, C)."""
    slack = 1.0 - Z @ w
    for _ in range(NEWTON):
        v = a + sigma * slack
        new = np.clip(v, 0.0, C)
        gradient = w - new @ Z
        if np.linalg.norm(gradient) <= 1e-14 * max(1.0, float(np.linalg.norm(w))):
            break
        step = -_solve(Z[(v > 0) & (v < C)], sigma, gradient)
        moved = Z @ step
        here, slope, length = _value(w, v, new, sigma), float(gradient @ step), 1.0
        while length > 1e-10:
            v_there = v - sigma * length * moved
            there = _value(w + length * step, v_there, np.clip(v_there, 0.0, C), sigma)
            # Near the optimum the decrease is lost in rounding; full steps are then right.
            if there <= here + 1e-4 * length * slope + 1e-13 * abs(here):
                break
            length /= 2
        w = w + length * step
        slack = slack - length * moved
    # Outputs recomputed, so that rounding of the updates does not add up.
    return w, np.clip(a + sigma * (1.0 - Z @ w), 0.0, C)


def _value(w: np.ndarray, v: np.ndarray, p: np.ndarray, sigma: float) -> float:
    return float(0.5 * w @ w + (p * v - 0.5 * p * p).sum() / sigma)


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


def train_without(X: np.ndarray, y: np.ndarray, l2: float, row: int, full: Machine) -> Machine:
    """Retrained without that row; l2 stays on the mean loss, now of n - 1, so C grows by n/(n - 1)."""
    kept = np.delete(np.arange(len(y)), row)
    start = full.a[kept] * (len(y) / len(kept))
    return train(X[kept], y[kept], l2, start=start, stiffness=1e4)
