"""What an estimator minimised, in the words of `LinearProblem`, and what readers of every family use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from scipy import sparse

from ..losses import LinearLoss
from ..types import Keep


@runtime_checkable
class Features(Protocol):
    """What turns the inputs of a model into those that it is linear in: a kernel's features, or some of the columns."""

    @property
    def of_kernel(self) -> bool:
        """Whether the leading ones of a chosen rank can stand for all."""

    def __call__(self, X: Any) -> Any:
        """Inputs (m, d) -> features (m, r)."""

    def named(self, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The names of the features, from those of the inputs."""


@dataclass(frozen=True, eq=False)
class Reading:
    """What a fitted estimator minimised, in the words of `LinearProblem`; a reader of its family finds it.

    Args:
        coef: the fitted coefficients (c, d).
        intercept: the fitted intercepts (c,), or None where the estimator has none.
        loss: the loss of one example.
        l2: the strength of the penalty on the mean loss, a number or one per parameter (p,).
        keep: which retraining the same estimator does without some rows.
        l2_intercept: the strength on the intercepts.
        counts_weights: whether class weights "balanced" count examples by their sample weights.
        phi: the features that the model is linear in, where they are not its inputs.
        slope: the slope of an l1 penalty, its signs held fixed, one number per parameter (p,), or None.
        weighs_examples: whether a class weight is that of an example in every output of several models.
        refitted: the numbers of the rows whose removal only a refit tells: the support vectors where the loss has
            corners, all rows where a setting is held that every removal moves. Their shown effects are refits.
        still: the numbers of the rows whose removal leaves the estimator as it is.
        notes: what was held fixed or approximated, one sentence each.
    """

    coef: np.ndarray
    intercept: np.ndarray | None
    loss: LinearLoss
    l2: float | np.ndarray
    keep: Keep
    l2_intercept: float = 0.0
    counts_weights: bool = False
    phi: Features | None = None
    slope: np.ndarray | None = None
    weighs_examples: bool = False
    refitted: np.ndarray | None = None
    still: np.ndarray | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What a user of `from_estimator` may choose where the estimator's objective leaves a choice.

    Args:
        smoothing: the temperature t > 0 of the smooth hinge that stands in for a hinge (R19).
        rank: how many leading features of a kernel are kept; None keeps all.
        sample_weight: the weights (n,) that it was fitted with, or None.
        targets: the n targets as it was fitted on.
    """

    smoothing: float
    rank: int | None
    sample_weight: Any = None
    targets: Any = None

    def smoothed_over(self) -> float:
        """The temperature of a regression's smoothed loss: `smoothing` times the standard deviation of the targets."""
        return self.smoothing * max(float(np.std(np.asarray(self.targets, dtype=np.float64))), 1e-300)


Reader = Callable[[Any, Any, Options], Reading]
"""A fitted estimator, its training inputs (n, d) as it sees them, and options -> what it minimised."""


def coefficients(model: Any) -> np.ndarray:
    """The estimator's coefficients as an array (c, d), also where it keeps (d,) or, after `sparsify`, sparse ones."""
    coef = model.coef_.toarray() if sparse.issparse(model.coef_) else np.asarray(model.coef_)
    return coef.reshape(1, -1) if coef.ndim == 1 else coef


def intercept_of(model: Any, outputs: int) -> np.ndarray | None:
    """The estimator's intercepts, one for each of c `outputs` (c,), or None where it was fitted without.

    scikit-learn keeps a number, or an array with one entry for all outputs, where they are equal.
    """
    if not model.fit_intercept:
        return None
    return np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), (outputs,)).copy()


def on_weighted_mean(model: Any, strength: float, options: Options) -> float:
    """A penalty's strength on the mean of the weighted losses, of an estimator that divides them by the sum of weights.

    A refit without a row then keeps less of the penalty the more the row weighs, which no `keep` says.

    Args:
        model: the estimator, whose class is named.
        strength: its penalty's strength beside losses divided by the sum of the weights.
        options: `sample_weight`.

    Raises:
        ValueError: for weights that differ, unless there is no penalty.
    """
    w = None if options.sample_weight is None else np.asarray(options.sample_weight, dtype=np.float64)
    if w is None or strength == 0:
        return strength
    if np.ptp(w) > 1e-12 * np.abs(w).max():
        raise ValueError(
            f"{type(model).__name__} divides by the sum of the sample weights, so that a refit's penalty follows the "
            'weight of the rows left out; use alpha=0, weights that are equal, or LinearProblem with keep="total"'
        )
    return strength * float(w.mean())


def refuse_penalty(model: Any, name: str, instead: str) -> None:
    """Raise ValueError for a penalty with a kink, at which no second derivative describes a refit.

    Args:
        model: the estimator, whose class is named.
        name: what its penalty is called, "l1" or "elasticnet".
        instead: what to use in its place, in words.
    """
    raise ValueError(
        f"{type(model).__name__} with an {name} penalty is not supported: it has a kink at zero, where the optimum "
        f"sits, so that no Hessian describes a refit; use {instead}"
    )
