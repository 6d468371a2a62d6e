"""Discriminant analysis and Gaussian naive Bayes of scikit-learn, whose parameters are moments of each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.user_terms import Terms
from ..moments import (
    ClassRows,
    FullGaussians,
    Gaussians,
    MomentProblem,
    NaiveGaussians,
    SharedGaussians,
    SharedScaled,
)
from ..types import Tensor

EXACT = 1e-6
"""How far rebuilt scores may be from those of the estimator, as a share of the largest."""
ROUNDED = 1e-3
"""As `EXACT`, of an estimator that computes in float32."""
FLAT = 1e-12
"""The deviation within classes below which a column is constant but for rounding, as a share of its size."""
REFIT = "by_refitting(estimator, X, y), which trains it again"


@dataclass(frozen=True, eq=False)
class MomentReading:
    """What a fitted estimator makes of the moments of its classes.

    Args:
        candidates: how it tells classes apart, as versions of the library differ: one of them has its scores.
        scores: its own scores (m, k), or (m,) of two classes, of columns (m, d).
        smoothing: what it adds to variances, as a share of the largest of a column.
        weighs: whether its `fit` takes sample weights.
        notes: what was held fixed, one sentence each.
    """

    candidates: tuple[Gaussians, ...]
    scores: Callable[[np.ndarray], np.ndarray]
    smoothing: float = 0.0
    weighs: bool = False
    notes: tuple[str, ...] = ()


MomentReader = Callable[[Any], MomentReading]
"""From a fitted estimator to what it makes of the moments of its classes."""


def linear_discriminant(model: Any) -> MomentReading:
    """LinearDiscriminantAnalysis: one covariance, which "svd" divides by n, or in other versions by n less the classes.

    Raises ValueError for a shrinkage that is found in the data, and a covariance estimator of another class.
    """
    _refuse_estimated(model)
    priors = _priors(model)
    if model.solver == "svd":
        taken = (0, len(model.classes_))
        return MomentReading(
            tuple(SharedScaled(priors, float(model.tol), less) for less in taken), model.decision_function
        )
    return MomentReading((SharedGaussians(priors, float(model.shrinkage or 0.0)),), model.decision_function)


def quadratic_discriminant(model: Any) -> MomentReading:
    """QuadraticDiscriminantAnalysis: a covariance each, over the rows of its class, in other versions one less.

    Raises ValueError for a shrinkage that is found in the data, and a covariance estimator of another class.
    """
    _refuse_estimated(model)
    eigen = getattr(model, "solver", "svd") == "eigen"
    shrinkage = float(getattr(model, "shrinkage", None) or 0.0)
    ridge = 0.0 if eigen else float(model.reg_param)
    found = tuple(FullGaussians(_priors(model), shrinkage, ridge, float(model.tol), less) for less in (0, 1))
    return MomentReading(found, model.decision_function)


def naive_bayes(model: Any) -> MomentReading:
    """GaussianNB: a variance for each column and class, to all of which a share of the largest is added."""
    note = (
        "what var_smoothing adds follows removals; first order (Eq. 2) holds it fixed, as a fit with another "
        "sample_weight does"
    )
    return MomentReading(
        (NaiveGaussians(_priors(model)),),
        model.predict_joint_log_proba,
        smoothing=float(model.var_smoothing),
        weighs=True,
        notes=(note,) if model.var_smoothing else (),
    )


def moment_problem(
    model: Any, reading: MomentReading, data: tuple[Tensor, np.ndarray, Any], terms: Terms
) -> MomentProblem:
    """The problem of an estimator by moments, whose scores it has.

    Args:
        model: the fitted estimator.
        reading: what it makes of moments.
        data: the columns (n, d) that it was fed, the classes 0..k-1 of the rows, their weights or None.
        terms: the user's terms.

    Raises:
        ValueError: for weights that its fit does not take, and an estimator that was fitted on other rows.
    """
    X, codes, weights = data
    name = type(model).__name__
    if len(model.classes_) < 2:
        raise ValueError(f"{name} was fitted on one class alone: there is nothing to decide")
    if len(np.unique(codes)) < len(model.classes_):
        raise ValueError(f"{name} has a class without a row in y: fit it on X and y at once")
    if weights is not None and not reading.weighs:
        raise ValueError(f"{name} takes no sample_weight in its fit: leave it out")
    w = np.ones(len(X)) if weights is None else np.broadcast_to(np.asarray(weights, float), (len(X),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that columns have no names here
        own = reading.scores(X.numpy())
    best: tuple[float, MomentProblem] | None = None
    for gaussians in reading.candidates:
        both = torch.from_numpy(codes), torch.from_numpy(w.copy())
        rows = ClassRows(X, *both, gaussians.crossed, reading.smoothing)
        if not bool(rows.packed(rows.all).isfinite().all()):
            raise ValueError(f"{name} has a class whose rows have no weight: leave it out")
        if said := gaussians.trouble(rows.all):
            raise ValueError(f"{name} is not supported where {said}")
        problem = MomentProblem(rows, gaussians, terms)
        off = _off(problem, np.asarray(own, dtype=np.float64))
        if best is None or off < best[0]:
            best = off, problem
    assert best is not None
    if not best[0] <= (ROUNDED if own.dtype == np.float32 else EXACT):
        raise ValueError(
            f"{name} has other scores than the moments of X and y give (off by {best[0]:.1e} of the largest): "
            f"{_why(best[1])}"
        )
    return best[1]


def _off(problem: MomentProblem, own: np.ndarray) -> float:
    """How far the scores of the training rows are from the estimator's own, as a share of the largest."""
    theirs = torch.from_numpy(own.reshape(len(own), -1))
    theirs = theirs[:, 1:] - theirs[:, :1] if problem.c == 1 and theirs.shape[1] == 2 else theirs
    ours = problem.outputs(problem.rows.X)
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-300))


def _why(problem: MomentProblem) -> str:
    """What may be the reason."""
    rows = problem.rows
    flat: Tensor = rows.all.scatter.sum(0)
    spread = ((flat.diagonal() if rows.crossed else flat) / rows.all.total.sum()).sqrt()
    size = rows.X.abs().amax(0)
    still = ((spread <= FLAT * size) & (size > 0)).nonzero()[:, 0].tolist()
    if still and rows.crossed:
        return f"column {still[0]} does not vary within the classes but for rounding: leave it out"
    return (
        "it was fitted on other rows, by partial_fit, or means of classes are collinear; fit it on X and y at once, or "
        f"use {REFIT}"
    )


def _priors(model: Any) -> Tensor | None:
    """The shares of the classes that were given, or None."""
    if model.priors is None:
        return None
    found = getattr(model, "priors_", None)
    found = torch.as_tensor(np.array(model.class_prior_ if found is None else found, dtype=np.float64))
    if not bool((found > 0).all()):
        raise ValueError(f"{type(model).__name__} with a prior of 0 says nothing of that class: leave it out")
    return found


def _refuse_estimated(model: Any) -> None:
    if getattr(model, "covariance_estimator", None) is not None:
        raise ValueError(
            f"{type(model).__name__} with a covariance_estimator is not supported: it may be anything; use "
            f"shrinkage, or {REFIT}"
        )
    if getattr(model, "shrinkage", None) == "auto":
        raise ValueError(
            f'{type(model).__name__} with shrinkage="auto" is not supported: the shrinkage is found in the data; give '
            f"it as a number, or use {REFIT}"
        )
