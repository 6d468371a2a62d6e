"""The user's own estimator, fitted again without some rows: what a reading of it is held against."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..objective import Objective
from ..types import Tensor
from .chosen import Chosen
from .unfitted import settings_of, unfitted

OWN = "own estimator"
"""Where a problem keeps its `Refitting`, among what a changed copy does not take along."""
GIVEN = "rows as given"
"""Where a problem keeps a function from numbers of training rows to the batch of them, as the user has it."""
KINKED = "kinked rows"
"""Where a problem keeps the numbers of the rows whose removal leads over a kink of its objective."""
STILL = "still rows"
"""Where a problem keeps the numbers of the rows whose removal leaves the estimator as it is."""
WRITTEN_OUT = "written out"
"""Where a problem whose effects were absorbed keeps a function that gives it with a column for each group of them."""
FAR = 0.1
"""The largest gradient, in what one row contributes to it, at which a fit counts as finished."""
Refitting = Callable[[Tensor], Objective]
"""Kept training rows (index) -> the problem of the estimator fitted on them alone, its transformers too."""


def refitting(
    settled: Chosen, X: Any, y: Any, sample_weight: Any, read: Callable[..., Objective]
) -> Refitting | None:
    """How the estimator is fitted again, or None where that cannot be: data on disk, kernel matrices, Boosters.

    Args:
        settled: the fitted estimator, which is copied, without what chose it.
        X: its training inputs as the user has them.
        y: its targets.
        sample_weight: its sample weights (n,), or None.
        read: from the same fitted on some rows, these inputs, targets and weights, to the problem that it solved.
    """
    from sklearn.utils import _safe_indexing

    estimator = settled.estimator
    model = estimator.steps[-1] if hasattr(estimator, "steps") else ("", estimator)
    streamed = isinstance(X, np.memmap) or not hasattr(X, "__getitem__")
    if streamed or getattr(model[1], "kernel", None) == "precomputed":
        return None
    if (settings := settings_of(model[1])) is None:
        return None
    name = weight_argument(estimator)

    def refit(kept: Tensor) -> Objective:
        rows = kept.numpy()
        own = _safe_indexing(X, rows), _safe_indexing(y, rows)
        weight = None if sample_weight is None else np.asarray(sample_weight)[rows]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when it was fitted the first time
            extra = {} if weight is None else {name: weight}
            fitted = unfitted(estimator, settings).fit(own[0], settled.targets(own[1]), **extra)
            return read(replace(settled, estimator=fitted), *own, weight)

    return refit


def check_finished(off: float, how: str) -> None:
    """Nothing happens where a fit is at its optimum; else a ValueError says how far off it is.

    Args:
        off: its gradient, in what one row contributes to it.
        how: how it is fitted to the end, in words that follow "fit".
    """
    if not off <= FAR:
        raise ValueError(
            f"the gradient at the fitted parameters is {off:.3g} times what one row contributes to it, not zero: "
            f"the fit stopped early or under constraints, or on other rows; fit {how}, or pass polish=True"
        )


def by_refits_alone(problem: Objective) -> bool:
    """Whether retraining finds anew what the problem holds, so that only refits of the estimator tell what it does."""
    rows = problem.cache.get(KINKED)
    return rows is not None and len(rows) == problem.n and problem.cache.get(OWN) is not None


def rows_as_given(X: Any, y: Any) -> Callable[[Tensor], tuple[Any, Any]]:
    """A function from the numbers of training rows to the batch of them; X and y are as the user has them."""
    from sklearn.utils import _safe_indexing

    return lambda rows: (_safe_indexing(X, rows.numpy()), _safe_indexing(y, rows.numpy()))


def weight_argument(estimator: Any) -> str:
    """What the sample weights are called among the arguments of `fit`: of a Pipeline they are its last step's."""
    steps = getattr(estimator, "steps", None)
    return f"{steps[-1][0]}__sample_weight" if steps else "sample_weight"
