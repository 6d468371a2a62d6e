"""Are effects predicted for every estimator those of its own leave-one-out refits? Two real data sets for each.

    python -m experiments estimators_refits            six removals on each (minutes)
    python -m experiments estimators_refits --small    two removals, every fifth estimator

Each is fitted on standardised columns of data sets that scikit-learn brings along: classifiers on breast cancer and on
wine (a class against the others where there may be two; on digits in place of breast cancer where there are more),
regressions on diabetes and on wine's alcohol. 40 rows are held out. What `of_each_removal` predicts for rows picked
evenly is compared with refits of the user's own estimator without each of them, by the slope of actual on predicted
changes and the relative error (L2) over all held-out rows:

- `held`: what it chose on all rows (a penalty, precisions, ...) is held fixed, which is what is predicted;
- `anew`: the whole estimator is fitted again, choices and all;
- `same columns`: as `held`, of the rows without which an l1 penalty leaves the same columns and signs.

Writes estimators_refits.json.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis, QuadraticDiscriminantAnalysis
from sklearn.experimental import enable_halving_search_cv  # noqa: F401  # makes the next import possible
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, WhiteKernel
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import (
    ARDRegression,
    BayesianRidge,
    ElasticNet,
    GammaRegressor,
    HuberRegressor,
    Lasso,
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    QuantileRegressor,
    Ridge,
    RidgeClassifier,
    RidgeClassifierCV,
    RidgeCV,
    SGDClassifier,
    SGDRegressor,
    TweedieRegressor,
)
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    TunedThresholdClassifierCV,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR, NuSVC, NuSVR

import upweight as uw
from experiments.common import options, parser, publish
from upweight.types import Tensor

HELD_OUT, SMOOTHING = 40, 0.1
TIGHT: dict[str, Any] = {"tol": 1e-10, "max_iter": 20_000}
LOGISTIC = LogisticRegression(C=0.1, solver="newton-cholesky", **TIGHT)
GRID = {"C": [0.01, 0.1]}
GLM: dict[str, Any] = {"alpha": 0.1, "solver": "newton-cholesky", **TIGHT}
SGD: dict[str, Any] = {"alpha": 0.1, "max_iter": 5000, "tol": None, "average": 10_000, "random_state": 0}
CORNERS = "shown by refits"
"""What is said of machines whose loss has corners: what is shown of removals are refits; first order smooths them."""

REFITTED = "nu, shown by refits"
"""What is said of machines with a nu: what is shown of removals are refits; first order holds C or epsilon."""

# (estimator, task, what is said of it). Tasks: several classes (or two), three and more, two, numbers, numbers > 0;
# "labels" and "numbers" are two of them for each row.
ESTIMATORS: list[tuple[Any, str, str]] = [
    (LOGISTIC, "two", ""),
    (LogisticRegression(C=0.1, **TIGHT), "several", "multinomial"),
    (LogisticRegression(C=0.1, solver="liblinear", **TIGHT), "two", ""),
    (clone(LOGISTIC).set_params(class_weight="balanced"), "two", "class weights follow"),
    (LogisticRegression(C=0.1, solver="saga", l1_ratio=1, **TIGHT), "two", "support held"),
    (
        LogisticRegression(C=0.03, solver="saga", l1_ratio=0.5, **TIGHT),
        "two",
        "support held",
    ),
    (
        LogisticRegressionCV(
            Cs=(0.01, 0.1),
            cv=3,
            l1_ratios=(0,),
            scoring="neg_log_loss",
            use_legacy_attributes=False,
            solver="newton-cholesky",
            **TIGHT,
        ),
        "two",
        "C held",
    ),
    (GridSearchCV(LOGISTIC, GRID, cv=3), "two", "settings held"),
    (RandomizedSearchCV(LOGISTIC, GRID, n_iter=2, cv=3, random_state=0), "two", "settings held"),
    (HalvingGridSearchCV(LOGISTIC, GRID, cv=3, random_state=0), "two", "settings held"),
    (OneVsRestClassifier(LOGISTIC), "several", ""),
    (OneVsOneClassifier(LOGISTIC), "several", "a machine for each pair"),
    (MultiOutputClassifier(LOGISTIC), "labels", ""),
    (MultiOutputRegressor(Ridge()), "numbers", ""),
    (CalibratedClassifierCV(LOGISTIC, ensemble=False, cv=3), "two", "calibration held"),
    (TunedThresholdClassifierCV(LOGISTIC, cv=3), "two", "threshold held"),
    (RidgeClassifier(), "several", ""),
    (RidgeClassifierCV(), "several", "alpha held"),
    (LinearSVC(C=0.01, dual=False, **TIGHT), "several", "curvature jumps"),
    (LinearSVC(C=0.01, loss="hinge", tol=1e-5, max_iter=10**5), "two", CORNERS),
    (SVC(kernel="linear", C=0.01, tol=1e-9), "two", CORNERS),
    (SVC(tol=1e-9), "two", CORNERS),
    (SVC(tol=1e-9), "classes", CORNERS),
    (NuSVC(nu=0.3, tol=1e-9), "two", REFITTED),
    (NuSVC(nu=0.3, tol=1e-9), "classes", REFITTED),
    (SGDClassifier("log_loss", **SGD), "two", "stochastic"),
    (SGDClassifier("modified_huber", **SGD), "two", "stochastic"),
    (LinearRegression(), "number", ""),
    (Ridge(), "number", ""),
    (RidgeCV(), "number", "alpha held"),
    (Lasso(alpha=0.02, **TIGHT), "number", "support held"),
    (ElasticNet(alpha=0.05, **TIGHT), "number", "support held"),
    (LassoCV(cv=3, alphas=20, **TIGHT), "number", "alpha, support held"),
    (BayesianRidge(tol=1e-8, max_iter=3000), "number", "precisions held"),
    (ARDRegression(), "number", "precisions held"),
    (HuberRegressor(tol=1e-8, max_iter=10_000), "number", "sigma follows"),
    (QuantileRegressor(alpha=0.01), "number", CORNERS),
    (PoissonRegressor(**GLM), "positive", ""),
    (GammaRegressor(**GLM), "positive", ""),
    (TweedieRegressor(power=1.5, **GLM), "positive", ""),
    (SGDRegressor(**SGD, learning_rate="constant", eta0=2e-4), "number", "stochastic"),
    (
        LinearSVR(C=0.1, epsilon=0.1, loss="squared_epsilon_insensitive", dual=False, **TIGHT),
        "number",
        "curvature jumps",
    ),
    (LinearSVR(C=0.1, epsilon=0.1, tol=1e-5, max_iter=10**5), "number", CORNERS),
    (SVR(tol=1e-9), "number", CORNERS),
    (NuSVR(tol=1e-9), "number", REFITTED),
    (KernelRidge(alpha=1.0, kernel="rbf", gamma=0.05), "number", ""),
    (GaussianProcessRegressor(RBF(4.0) + WhiteKernel(0.3), random_state=0), "number", "kernel held"),
    (TransformedTargetRegressor(Ridge(), func=np.log, inverse_func=np.exp), "positive", "target held"),
    (LinearDiscriminantAnalysis(), "several", ""),
    (LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.2), "two", ""),
    (QuadraticDiscriminantAnalysis(reg_param=0.1), "several", ""),
    (GaussianNB(), "several", "epsilon_ follows"),
]


def data_of(task: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The data sets of a task, by name."""
    wine, cancer, diabetes = (
        load(return_X_y=True)
        for load in (datasets.load_wine, datasets.load_breast_cancer, datasets.load_diabetes)
    )
    if task == "classes":
        digits = datasets.load_digits(n_class=4, return_X_y=True)
        return {"wine": wine, "digits 0 to 3": (digits[0][:240], digits[1][:240])}
    if task == "several":
        return {"wine": wine, "breast cancer": cancer}
    if task == "labels":  # the class, and whether another column is above its median
        two = data_of("two").items()
        return {
            name: (X[:, 1:], np.stack([y, X[:, 0] > np.median(X[:, 0])], 1).astype(int))
            for name, (X, y) in two
        }
    if task == "numbers":
        return {
            name: (X[:, 1:], np.stack([y, X[:, 0]], axis=1)) for name, (X, y) in data_of("number").items()
        }
    if task == "two":
        return {"breast cancer": cancer, "wine": (wine[0], (wine[1] == 0).astype(int))}
    alcohol = (wine[0][:, 1:], wine[0][:, 0])
    found = {"diabetes": diabetes, "wine's alcohol": alcohol}
    if task == "positive":
        return {name: (X, y / y.mean()) for name, (X, y) in found.items()}
    return {name: (X, (y - y.mean()) / y.std()) for name, (X, y) in found.items()}


def split(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Standardised columns and targets, shuffled: training rows, then the held-out ones."""
    order = np.random.default_rng(0).permutation(len(X))
    X, y = ((X - X.mean(0)) / np.where(X.std(0) > 0, X.std(0), 1))[order], y[order]
    return X[:-HELD_OUT], y[:-HELD_OUT], X[-HELD_OUT:], y[-HELD_OUT:]


def agreement(predicted: Tensor, actual: Tensor) -> dict[str, float]:
    """The slope of actual on predicted changes through zero, and the relative difference."""
    return {
        "slope": float((predicted * actual).sum() / predicted.square().sum()),
        "error": float((predicted - actual).norm() / actual.norm()),
    }


def judged(estimator: Any, X: np.ndarray, y: np.ndarray, removals: int) -> dict[str, Any]:
    """One estimator on one data set, or why it is refused."""
    X, y, *test = split(X, y)
    batch = (test[0], test[1])
    settings = {"smoothing": SMOOTHING}
    model = clone(estimator).fit(X, y)
    try:
        problem = uw.from_estimator(model, X, y, **settings)
    except (TypeError, ValueError, uw.InfluenceError) as error:
        return {"refused": str(error)}
    influence, base = uw.Influence(problem), problem.evaluate(batch)
    rows = np.unique(np.linspace(0, len(X) - 1, removals).astype(int)).tolist()
    shown = influence.of_each_removal(batch, rows=rows)  # shown in any case, as `verify` asks too
    predicted, first = shown.effect()[:, rows], -shown.values[:, rows] / problem.n
    anew, held, same = [], [], []
    refit = problem.cache["own estimator"]
    for i in rows:
        kept = np.delete(np.arange(len(X)), i)
        there = refit(torch.from_numpy(kept))
        held.append(there.evaluate(batch) - base)
        same.append(there.p == problem.p and torch.equal(there.theta.sign(), problem.theta.sign()))
        again = clone(estimator).fit(X[kept], y[kept])
        theirs = uw.from_estimator(again, X[kept], y[kept], **settings)
        if theirs.linear is not None:  # one loss is asked about, also where training fits its scale
            theirs = theirs.linear.with_loss(problem.loss)
        anew.append(theirs.evaluate(batch) - base)
    actual = torch.stack(held, 1)
    kept_signs = torch.tensor(same)
    support = {"rows": sum(same), **agreement(predicted[:, kept_signs], actual[:, kept_signs])}
    return {
        "held": agreement(predicted, actual),
        **({"same columns": support} if problem.penalty.slope is not None else {}),
        "anew": agreement(predicted, torch.stack(anew, 1)),
        "first order": agreement(first, actual),
        "notes": list(problem.terms.notes),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Go through the estimators, print a line for each data set, and write the numbers."""
    chosen = options(parser(__name__, __doc__, "two removals, every fifth estimator"), argv)
    table, supported, within = [], 0, 0
    for estimator, task, said in ESTIMATORS[:: 5 if chosen.small else 1]:
        name = " ".join(str(estimator).split())
        found = {}
        for where, (X, y) in data_of(task).items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found[where] = judged(estimator, X, y, 2 if chosen.small else 6)
            told = found[where].get("refused") or ", ".join(
                f"{kind} slope {found[where][kind]['slope']:.4f} error {found[where][kind]['error']:.2%}"
                for kind in ("held", "anew", "first order", "same columns")
                if kind in found[where]
            )
            print(f"{name[:60]} ({said or 'exact'}) on {where}: {told}", flush=True)
        table.append({"estimator": name, "said": said, "data": found})
        read = all("held" in one for one in found.values())
        supported += read
        within += read and all(
            0.99 <= one["held"]["slope"] <= 1.01 and one["held"]["error"] <= 0.03 for one in found.values()
        )
    result = {
        "small": chosen.small,
        "estimators": len(table),
        "supported": supported,
        "slope 0.99 to 1.01 and error up to 3 % on both data sets": within,
        "table": table,
    }
    publish(result, chosen.out / "estimators_refits.json", silent=("table",))


if __name__ == "__main__":
    main()
