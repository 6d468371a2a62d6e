"""Truth by refitting: training examples are removed, the model is retrained, predictions are held against it.

The judge shares no solver with the accused. For linear problems many refits run at once as a block: the gradient of
each reduced objective is computed from the outputs of that refit's own parameters, steps are taken with one fixed
factorised Hessian, and a refit counts only when the norm of that gradient is below the tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from scipy import stats

from ..curvature.base import Hessian
from ..errors import NotConvergedError
from ..influence.influence import Influence
from ..linalg.factorizations import Factor
from ..linear.edits import Sets, first_gradients, reduced_gradients, without
from ..linear.problem import LinearProblem
from ..measures import Measure, OfParameters
from ..objective import Objective
from ..runtime.notebook import as_html
from ..runtime.progress import track
from ..types import Tensor

Refit = Callable[[Tensor], Any]
"""Kept training rows (index) -> retrained parameters: a flat (p,) tensor or a module."""

BLOCK = 64
STEPS = 60
RESAMPLES = 999


@dataclass(frozen=True)
class Agreement:
    """How well predictions (x) agree with retraining (y) over one group of removals.

    `slope` is that of the least-squares line of actual on predicted, `relative_error` is ||x - y|| / ||y||;
    `interval` holds 95 % percentile bootstrap intervals of all four.
    """

    count: int
    pearson: float
    spearman: float
    slope: float
    relative_error: float
    interval: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        low, high = self.interval["pearson"]
        return (
            f"{self.count} removals: Pearson {self.pearson:.4f} [{low:.4f}, {high:.4f}], Spearman {self.spearman:.4f}, "
            f"slope {self.slope:.4f}, relative L2 error {self.relative_error:.2%}"
        )


@dataclass(frozen=True)
class Verification:
    """Predicted and actual changes of each test measure, with `top` and `random` removals judged apart.

    `table` has a line per test row and removal: test row and train row (their ids where they have some), group,
    predicted, actual, gradient norm (of the refit's own objective; NaN for a user-given refit). `complete` is False
    after Ctrl-C: what was finished is kept.
    """

    table: pd.DataFrame
    top: Agreement
    random: Agreement | None
    complete: bool = True

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(*str(self).splitlines(), self.table)

    def __str__(self) -> str:
        lines = [f"most influential: {self.top}"]
        if self.random is not None:
            lines.append(f"random control:   {self.random}")
        if not self.complete:
            lines.append("interrupted: only the finished refits are counted")
        return "\n".join(lines)


def verify(
    influence: Influence,
    test: Any,
    *,
    k: int = 50,
    random: int | None = None,
    measure: Measure | None = None,
    refit: Refit | None = None,
    seed: int = 0,
    tolerance: float = 1e-9,
) -> Verification:
    """Remove the k examples of largest |influence| on each test row, and as many random ones; retrain; compare.

    Linear problems are refitted here, to a gradient norm of `tolerance`; for networks `refit(kept_rows)` trains on the
    kept rows and returns the parameters. The baseline is a refit with nothing removed (drift control).
    Raises ValueError for k < 1 or a missing `refit`, `NotConvergedError` if a refit misses the tolerance.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> influence = Influence(LinearProblem.fit(X, X[:, 0].sin() + 0.1, loss=Squared(), l2=0.1))
    >>> verify(influence, (X[:1], X[:1, 0]), k=5).top.pearson > 0.99
    True
    """
    problem = influence.problem
    random = k if random is None else random
    if k < 1 or random < 0:
        raise ValueError(f"k must be >= 1 and random >= 0, got k = {k}, random = {random}")
    k = min(k, problem.n - 1)
    scores = influence.on_loss(test, measure=measure)
    predicted = scores.removal_effect()
    top = predicted.abs().topk(k, dim=1).indices
    shuffled = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))
    control = shuffled[: min(random, problem.n - 1)]
    removed = torch.unique(torch.cat([top.flatten(), control]))
    measured, norms, complete = _measure_refits(problem, test, measure, removed, refit, tolerance)

    position = {int(row): j for j, row in enumerate(removed.tolist())}
    lines = []
    for t in range(len(predicted)):
        for group, rows in (("top", top[t]), ("random", control)):
            for row in rows.tolist():
                if (j := position[row]) < len(measured):
                    lines.append(
                        (t, row, group, float(predicted[t, row]), float(measured[j, t]), float(norms[j]))
                    )
    names = ["test row", "train row", "group", "predicted", "actual", "gradient norm"]
    table = pd.DataFrame(lines, columns=names)
    for column, ids in (("train row", scores.ids), ("test row", scores.test_ids)):
        if ids is not None:
            table[column] = ids.take(table[column])
    groups = {group: part for group, part in table.groupby("group") if len(part) >= 2}
    if "top" not in groups:
        raise ValueError("fewer than two refits were finished: nothing to compare")
    return Verification(
        table,
        agreement(groups["top"]["predicted"], groups["top"]["actual"], seed),
        agreement(groups["random"]["predicted"], groups["random"]["actual"], seed)
        if "random" in groups
        else None,
        complete,
    )


def agreement(predicted: Any, actual: Any, seed: int = 0) -> Agreement:
    """Pearson, Spearman, slope and relative L2 error of predicted against actual changes, with intervals.

    >>> agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).slope
    1.0
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    ranks_x, ranks_y = stats.rankdata(x), stats.rankdata(y)
    chosen = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    samples = {
        "pearson": _pearson(x[chosen], y[chosen]),
        "spearman": _pearson(ranks_x[chosen], ranks_y[chosen]),
        "slope": _slope(x[chosen], y[chosen]),
        "relative_error": _relative_error(x[chosen], y[chosen]),
    }
    interval = {
        name: (float(np.nanquantile(values, 0.025)), float(np.nanquantile(values, 0.975)))
        if np.isfinite(values).any()
        else (np.nan, np.nan)
        for name, values in samples.items()
    }
    return Agreement(
        len(x),
        float(_pearson(x, y)),
        float(_pearson(ranks_x, ranks_y)),
        float(_slope(x, y)),
        float(_relative_error(x, y)),
        interval,
    )


def _centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(-1, keepdims=True)


def _divide(a: Any, b: Any) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = _centred(x), _centred(y)
    return _divide((dx * dy).sum(-1), np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1)))


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx = _centred(x)
    return _divide((dx * y).sum(-1), (dx**2).sum(-1))


def _relative_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _divide(np.sqrt(((x - y) ** 2).sum(-1)), np.sqrt((y**2).sum(-1)))


# -- refitting -----------------------------------------------------------------------------------------------------


def _measure_refits(
    problem: Objective,
    test: Any,
    measure: Measure | None,
    removed: Tensor,
    refit: Refit | None,
    tolerance: float,
) -> tuple[Tensor, Tensor, bool]:
    """The change of each measure (rows of `removed`, m) against the baseline, the gradient norms, whether all ran."""
    if refit is None and not isinstance(problem, LinearProblem):
        raise ValueError(
            "verify retrains linear problems by itself; for other models give refit=, a function of the kept training "
            "rows (index tensor) that returns the retrained parameters or module"
        )
    changes: list[Tensor] = []
    norms: list[float] = []
    try:
        if refit is None:
            assert isinstance(problem, LinearProblem)
            if not isinstance(measure, OfParameters):
                test = problem._test(test)  # once, not per block of refits
            # The first removes nothing: the baseline, by the same code.
            sets = [removed[:0], *removed.split(1)]
            jobs = [sets[start : start + BLOCK] for start in range(0, len(sets), BLOCK)]
            factor = Hessian(problem).factor(torch.float32)
            baseline: Tensor | None = None
            for job in track(jobs, f"refitting {len(removed)} times", len(jobs)):
                thetas, reached = refit_without(problem, job, factor, tolerance)
                values = list(problem.evaluate_each(test, thetas, measure))
                if baseline is None:
                    baseline, values, reached = values[0], values[1:], reached[1:]
                changes += [value - baseline for value in values]
                norms += reached.tolist()
        else:
            everything = torch.arange(problem.n)
            start = problem.evaluate(test, measure, _flat(problem, refit(everything)))
            for row in track(removed.tolist(), "refitting", len(removed)):
                theta = _flat(problem, refit(everything[everything != row]))
                changes.append(problem.evaluate(test, measure, theta) - start)
                norms.append(float("nan"))
    except KeyboardInterrupt:
        if not changes:
            raise
        return torch.stack(changes), torch.tensor(norms), False
    return torch.stack(changes), torch.tensor(norms), True


def _flat(problem: Objective, trained: Any) -> Tensor:
    if isinstance(trained, torch.nn.Module):
        named = dict(trained.named_parameters())
        return torch.cat([named[name].detach().flatten() for name in problem.layout.names])
    flat = torch.as_tensor(trained)
    if flat.shape != (problem.p,):
        raise ValueError(
            f"refit must return a module or a flat ({problem.p},) tensor, got shape {tuple(flat.shape)}"
        )
    return flat


def refit_without(
    problem: LinearProblem, sets: Sets, factor: Factor, tolerance: float = 1e-9
) -> tuple[Float[Tensor, "g p"], Float[Tensor, " g"]]:
    """Refit once without each of those sets of training rows, all at once, to the gradient norm `tolerance`.

    Returns the parameters and the gradient norms of the reduced objectives. A refit that the fixed factor does not
    bring there (very high leverage, a large set) is finished alone by `LinearProblem.minimised`.
    """
    # The first step needs no pass over the data: at theta only the removed rows' gradients are missing from the sum.
    thetas = problem.theta - factor.solve(first_gradients(problem, sets).to(factor.dtype)).double()
    norms = torch.full((len(sets),), torch.inf, dtype=torch.float64)
    active = torch.arange(len(sets))
    for _ in range(STEPS):
        gradient = reduced_gradients(problem, thetas[active], [sets[j] for j in active.tolist()])
        norms[active] = gradient.norm(dim=1)
        left = ~(norms[active] <= tolerance)
        if not bool(left.any()):
            break
        active = active[left]
        thetas[active] -= factor.solve(gradient[left].to(factor.dtype)).double()
    for j in (~(norms <= tolerance)).nonzero()[:, 0].tolist():
        thetas[j] = without(problem, sets[j]).minimised(tolerance).theta
        norms[j] = reduced_gradients(problem, thetas[[j]], [sets[j]]).norm()
    if not bool((norms <= 2 * tolerance).all()):
        raise NotConvergedError(
            f"a refit stopped at gradient norm {float(norms.max()):.1e}, wanted {tolerance:.0e}"
        )
    return thetas, norms
