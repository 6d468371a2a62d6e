"""Do answers about scikit-learn's estimators hold in all units? Solvers, weights and intercepts against plain refits.

    python -m experiments estimators_sweep            every combination (minutes)
    python -m experiments estimators_sweep --small    every 40th

Each case is an estimator of the user's, fitted to a tight tolerance on columns (and targets) of some unit. Its
objective is written out once more from scikit-learn's documentation and differentiated by autograd. Three things are
compared, a difference of more than 1 % is wrong unless upweight warned of it:

- the change of each test loss by the user's own estimator, refitted without a row, with the written-out objective's
  (where the refit is converged): the objective is the estimator's;
- the Newton prediction of `of_removal` with one Newton step of the written-out objective;
- `on_loss` with the derivative of the written-out objective by a scaled dense solve.

Writes estimators_sweep.json.
"""

from __future__ import annotations

import collections
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.svm import SVC, LinearSVC
from torch.nn import functional as F

import upweight as uw
from experiments.common import options, parser, publish
from upweight.types import Tensor

N, D, TEST, REMOVED = 50, 3, 4, 3
WRONG = 0.01
SMOOTHING = 0.05
TIGHT: dict[str, Any] = {"tol": 1e-12, "max_iter": 500}
COORDINATES: dict[str, Any] = {"tol": 1e-12, "max_iter": 20_000}
UNITS = {
    "ones": [1.0, 1.0, 1.0],
    "1e-6": [1e-6, 1e-6, 1e-6],
    "1e6": [1e6, 1e6, 1e6],
    "rates, years and dollars": [0.01, 10.0, 6e4],
    "yen far from zero": [1.0, 1.0, 1e7],
}
SCALES = {"1e-6": 1e-6, "ones": 1.0, "dollars": 6e4, "1e6": 1e6, "yen": 1e8}
WEIGHTS = ("none", "sample", "class", "balanced", "sample and class")

# (estimator, task); where `classes` can be weighed is known by their parameters.
ESTIMATORS = [
    *(
        (LogisticRegression(C=0.7, solver=solver, **TIGHT), task)
        for solver in ("lbfgs", "newton-cg", "newton-cholesky")
        for task in ("two", "three")
    ),
    (LogisticRegression(C=0.7, solver="liblinear", intercept_scaling=2.0, **COORDINATES), "two"),
    (LogisticRegression(C=np.inf, solver="newton-cholesky", **TIGHT), "two"),
    *(
        (LinearSVC(C=0.3, dual=dual, **COORDINATES), task)
        for dual in (True, False)
        for task in ("two", "three")
    ),
    (LinearSVC(C=0.3, loss="hinge", **COORDINATES), "two"),
    (SVC(C=0.3, kernel="linear", tol=1e-9, max_iter=100_000), "two"),
    (SGDClassifier("log_loss", alpha=0.3, max_iter=400, tol=None, average=1_000, random_state=0), "two"),
    *(
        (Ridge(alpha=3.0, solver=solver, tol=1e-12), "number")
        for solver in ("svd", "cholesky", "lsqr", "sparse_cg")
    ),
    (Ridge(alpha=[1.0, 5.0]), "numbers"),
    (LinearRegression(), "number"),
]


@dataclass(frozen=True)
class Case:
    """An estimator with its data, as a user has them; `sample` are sample weights or None."""

    name: str
    estimator: Any
    X: np.ndarray
    y: np.ndarray
    sample: np.ndarray | None
    units: str

    def fitted(self, kept: np.ndarray) -> Any:
        """A copy of the estimator, fitted on those rows."""
        options = {} if self.sample is None else {"sample_weight": self.sample[kept]}
        return clone(self.estimator).fit(self.X[:N][kept], self.y[:N][kept], **options)


def cases() -> Iterator[Case]:
    """Every combination that scikit-learn takes."""
    for (estimator, task), weights, intercept, units in itertools.product(
        ESTIMATORS, WEIGHTS, (True, False), UNITS
    ):
        settings = estimator.get_params()
        if "fit_intercept" not in settings and not intercept:
            continue
        weighs = "class_weight" in settings and not (task == "three" and isinstance(estimator, LinearSVC))
        if weights not in ("none", "sample") and not weighs:
            continue
        for scale in SCALES if task.startswith("number") else ("ones",):
            yield case(estimator, task, weights, intercept, units, scale)


def case(estimator: Any, task: str, weights: str, intercept: bool, units: str, scale: str) -> Case:
    """One combination, on data that are the same for all of them but for their units.

    Args:
        estimator: unfitted.
        task: "two" or "three" classes, a "number" or "numbers".
        weights: one of `WEIGHTS`.
        intercept: whether the estimator has one, where that can be chosen.
        units: of the columns, one of `UNITS`.
        scale: of the targets, one of `SCALES`.
    """
    rng = np.random.default_rng(3)
    X = rng.normal(size=(N + TEST, D))
    eta = X @ np.array([1.0, -1.0, 0.5]) + 0.8 * rng.normal(size=N + TEST) + 0.3
    y = {
        "two": (eta > 0).astype(int),
        "three": np.digitize(eta, [-0.7, 0.7]),
        "number": SCALES[scale] * eta,
        "numbers": SCALES[scale] * np.stack([eta, eta**2], 1),
    }[task]
    X = (X + 20 * (np.array(UNITS[units]) == 1e7)) * np.array(UNITS[units])
    sample = rng.uniform(0.3, 2.0, N) if "sample" in weights else None
    chosen = clone(estimator)
    if "fit_intercept" in chosen.get_params():
        chosen.set_params(fit_intercept=intercept)
    if "class" in weights:
        chosen.set_params(class_weight={0: 3.0, 1: 0.5, **({2: 2.0} if task == "three" else {})})
    if weights == "balanced":  # held fixed by upweight, so in the refits too
        counts = np.bincount(y[:N])
        chosen.set_params(class_weight=dict(enumerate(N / (len(counts) * counts))))
    words = "".join(str(estimator).split())
    name = f"{words} {task}, weights {weights}, intercept {intercept}, columns {units}, targets {scale}"
    return Case(name, chosen, X, y, sample, f"{units} {scale}")


# -- the objective, written out ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """The objective that scikit-learn documents: share * sum_i w_i l_i + penalty, in flat parameters."""

    loss: Callable[[Tensor, Tensor], Tensor]
    X: Tensor
    y: Tensor
    w: Tensor
    share: float
    penalty: Tensor
    c: int
    folded: bool

    def losses(self, theta: Tensor, X: Tensor, y: Tensor) -> Tensor:
        coef, bias = theta[: self.c * D].view(self.c, D), theta[self.c * D :]
        return self.loss(X @ coef.T + (bias if len(bias) else 0.0), y)

    def total(self, theta: Tensor, w: Tensor) -> Tensor:
        return self.share * (w * self.losses(theta, self.X, self.y)).sum() + 0.5 * (
            self.penalty * theta**2
        ).sum() * (float((w > 0).sum()) / len(w) if self.folded else 1.0)

    def gradient(self, theta: Tensor, w: Tensor) -> Tensor:
        leaf = theta.clone().requires_grad_()
        return torch.autograd.grad(self.total(leaf, w), leaf)[0]

    def trained(self, theta: Tensor, w: Tensor, enough: float) -> tuple[Tensor, float]:
        """The optimum by Newton steps, and the decrement g . H^-1 g at the start."""
        first = float("inf")
        for k in range(10):
            gradient = self.gradient(theta, w)
            step = self.solve(theta, w, gradient)
            decrement = float(step @ gradient)
            first = decrement if k == 0 else first
            if not decrement > enough:
                break
            theta = theta - step
        return theta, first

    def solve(self, theta: Tensor, w: Tensor, right: Tensor) -> Tensor:
        """H^-1 times a vector, scaled; directions that no loss sees are left out."""
        H = torch.autograd.functional.hessian(lambda t: self.total(t, w), theta)
        scale = H.diagonal().clamp(min=1e-300).rsqrt()
        values, U = torch.linalg.eigh(scale[:, None] * H * scale)
        kept = values > 1e-13 * values[-1]
        inner = U[:, kept]
        return scale * (inner @ ((inner.T @ (scale * right)) / values[kept]))


def margins(form: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """The sum over outputs of a function of the margin, one class against the rest."""

    def loss(eta: Tensor, y: Tensor) -> Tensor:
        c = eta.shape[1]
        own = (y[:, None] == torch.arange(c)) if c > 1 else (y[:, None] == 1)
        return form(torch.where(own, eta, -eta)).sum(1)

    return loss


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logistic": margins(lambda m: F.softplus(-m, threshold=60)),
    "softmax": lambda eta, y: F.cross_entropy(eta, y, reduction="none"),
    "squared hinge": margins(lambda m: (1 - m).clamp(min=0) ** 2),
    "smooth hinge": margins(lambda m: SMOOTHING * F.softplus((1 - m) / SMOOTHING, threshold=60)),
    "squares": lambda eta, y: 0.5 * (eta - y.view(len(eta), -1)).square().sum(1),
}


def written_out(case: Case, model: Any) -> tuple[Plain, Tensor]:
    """The documented objective of a fitted estimator, and its parameters."""
    estimator, kind = case.estimator, type(case.estimator).__name__
    coef = torch.tensor(np.atleast_2d(model.coef_)).double()
    c, bias = len(coef), torch.tensor(np.broadcast_to(model.intercept_, (len(coef),)).copy()).double()
    intercept = getattr(estimator, "fit_intercept", True)
    theta = torch.cat([coef.flatten(), bias if intercept else bias[:0]])
    w = torch.ones(N).double() if case.sample is None else torch.from_numpy(case.sample)
    by_class = getattr(estimator, "class_weight", None)
    if by_class is not None:
        w = w * torch.tensor([by_class[int(label)] for label in case.y[:N]]).double()
    name = {
        "LogisticRegression": "logistic" if c == 1 else "softmax",
        "LinearSVC": "smooth hinge" if getattr(estimator, "loss", "") == "hinge" else "squared hinge",
        "SVC": "smooth hinge",
        "SGDClassifier": "logistic",
    }.get(kind, "squares")
    share, strength, penalised = 1.0, np.ones(c), 0.0
    if kind == "SGDClassifier":
        share, strength = 1 / N, np.full(c, estimator.alpha)
    elif name == "squares":
        strength = np.broadcast_to(np.asarray(getattr(estimator, "alpha", 0.0), dtype=float).ravel(), (c,))
    elif np.isinf(estimator.C):
        strength = np.zeros(c)
    else:
        share = estimator.C
        liblinear = kind == "LinearSVC" or getattr(estimator, "solver", "") == "liblinear"
        penalised = 1 / estimator.intercept_scaling**2 if liblinear else 0.0
    penalty = torch.cat(
        [torch.tensor(np.repeat(strength, D)), torch.full((len(theta) - c * D,), penalised)]
    ).double()
    X, y = torch.from_numpy(case.X[:N]), torch.from_numpy(case.y[:N])
    return Plain(LOSSES[name], X, y, w, share, penalty, c, kind == "SGDClassifier"), theta


# -- the comparison ------------------------------------------------------------------------------------------------


def off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, as a share of the largest number of its row."""
    size = wanted.abs().amax(1, keepdim=True).clamp(min=1e-300)
    gap = ((found - wanted).abs() / size).max()
    return float(gap) if bool(gap.isfinite()) else float("inf")


def judged(case: Case) -> tuple[str, dict[str, float]]:
    """What became of a case, in a word or two, and how far each comparison was off."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model = case.fitted(np.arange(N))
        said.clear()
        try:
            influence = uw.Influence(
                uw.from_estimator(
                    model, case.X[:N], case.y[:N], sample_weight=case.sample, smoothing=SMOOTHING
                )
            )
            test = case.X[N:], case.y[N:]
            sets = [[i] for i in range(REMOVED)]
            scores, newton = (
                influence.on_loss(test).values[:, :REMOVED],
                influence.of_removal(sets, test, steps=1).newton,
            )
        except (ValueError, uw.InfluenceError) as error:
            return f"refused: {str(error)[:60]}", {}
        warned = any(issubclass(one.category, uw.NotStationaryWarning) for one in said)
        found = compared(case, model, scores, newton)
    wrong = [name for name, gap in found.items() if gap > WRONG]
    if warned and wrong:
        return "warned of", found
    return f"wrong: {', '.join(wrong)}" if wrong else "right", found


def compared(case: Case, model: Any, scores: Tensor, newton: Any) -> dict[str, float]:
    """How far each of the three comparisons is off."""
    plain, theta = written_out(case, model)
    hinge = plain.loss is LOSSES["smooth hinge"]
    X, y = torch.from_numpy(case.X[N:]), torch.from_numpy(case.y[N:])
    base = plain.losses(theta, X, y)
    V = torch.autograd.functional.jacobian(lambda t: plain.losses(t, X, y), theta)
    derivatives, steps, refits, actual = [], [], [], []
    for i in range(REMOVED):
        w = plain.w.clone()
        w[i] = 0
        own = plain.gradient(theta, plain.w) - plain.gradient(theta, w)
        derivatives.append(-N * (V @ plain.solve(theta, plain.w, own)))
        # The Newton step of what the removal adds to the gradient: what is left of the fit's own is not the row's.
        moved = theta + plain.solve(theta, w, own)
        steps.append(plain.losses(moved, X, y) - base)
        if hinge or plain.folded:
            continue
        there = written_out(case, case.fitted(np.delete(np.arange(N), i)))[1]
        change = plain.losses(there, X, y) - base
        size = float((moved - theta) @ own)
        finished, decrement = plain.trained(there, w, 1e-12 * size)
        if decrement < 1e-6 * size:
            actual.append(change)
            refits.append(plain.losses(finished, X, y) - base)
    found = {"on_loss": off(scores, torch.stack(derivatives, 1))}
    if newton is not None:
        found["newton"] = off(newton, torch.stack(steps, 1))
    if actual:
        found["objective"] = off(torch.stack(actual, 1), torch.stack(refits, 1))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Go through the cases, print what is wrong by kind, and write the numbers."""
    chosen = options(parser(__name__, __doc__, "every 40th combination"), argv)
    every = [*cases()][:: 40 if chosen.small else 1]
    counts: collections.Counter[str] = collections.Counter()
    lines, largest = [], collections.Counter[str]()
    for one in every:
        verdict, gaps = judged(one)
        counts[verdict] += 1
        if verdict == "right":
            for name, gap in gaps.items():
                largest[name] = max(largest[name], gap)
        elif not verdict.startswith("refused"):
            lines.append(
                f"{verdict}: {one.name}, off by " + ", ".join(f"{k} {v:.1e}" for k, v in gaps.items())
            )
            print(lines[-1], flush=True)
    wrong = sum(number for verdict, number in counts.items() if verdict.startswith("wrong"))
    result = {
        "small": chosen.small,
        "cases": len(every),
        "wrong": wrong,
        "verdicts": dict(counts.most_common()),
        "largest_difference_of_the_right": dict(largest),
        "lines": lines,
    }
    publish(result, chosen.out / "estimators_sweep.json", silent=("lines",))


if __name__ == "__main__":
    main()
