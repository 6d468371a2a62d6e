"""What an estimator minimised, in the words of `LinearProblem`, and what readers of every family use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from ..linear.kernel_features import FeatureMap
from ..losses import LinearLoss
from ..types import Keep


@dataclass(frozen=True, eq=False)
class Reading:
    """What an estimator minimised, in the words of `LinearProblem`."""

    coef: np.ndarray
    intercept: np.ndarray | None
    loss: LinearLoss
    l2: Any
    keep: Keep
    l2_intercept: float = 0.0
    counts_weights: bool = False
    """Whether "balanced" counts examples by their sample weights."""
    phi: FeatureMap | None = None
    """The features that the model is linear in, where they are not its inputs."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Wishes:
    """What a user of `from_estimator` wants of a reading.

    `smoothing` is the temperature of the smooth hinge, `rank` how many features of a kernel are kept (None: all).
    """

    smoothing: float
    rank: int | None


Reader = Callable[[Any, Any, Wishes], Reading]
"""A fitted estimator, its training inputs as it sees them, and wishes -> what it minimised."""


def coefficients(model: Any) -> np.ndarray:
    """The estimator's coefficients, (c, d)."""
    coef = model.coef_.toarray() if sparse.issparse(model.coef_) else np.asarray(model.coef_)
    return coef.reshape(1, -1) if coef.ndim == 1 else coef


def intercept_of(model: Any, outputs: int) -> np.ndarray | None:
    """The estimator's intercepts (c,), or None where it has none."""
    if not model.fit_intercept:
        return None
    return np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64).ravel(), (outputs,)).copy()


def refuse_penalty(model: Any, name: str, instead: str) -> None:
    """Raise ValueError for a penalty with a kink.

    Args:
        model: the estimator.
        name: of its penalty.
        instead: what to use, in words.
    """
    raise ValueError(
        f"{type(model).__name__} with an {name} penalty is not supported: it has a kink at zero, where the optimum "
        f"sits, so that no Hessian describes a refit; use {instead}"
    )
