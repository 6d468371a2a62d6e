"""What CoxPHSurvivalAnalysis of scikit-survival maximised: the partial likelihood with a penalty on coefficients."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from ..data.user_terms import Terms, batch_index
from ..likelihood import LikelihoodProblem, PartialLikelihood
from ..types import Keep, Tensor
from .chosen import Chosen
from .perceptrons import dense
from .transformers import check_transformers
from .user_data import HELD, Inputs, column_names

UNREAD = {
    "CoxnetSurvivalAnalysis": "its l1 penalty has a kink; use CoxPHSurvivalAnalysis(alpha=n * alpha, "
    'ties="breslow") for its ridge part',
}
"""Models of scikit-survival that have coefficients, and what to use in their place."""


def is_survival_model(model: Any) -> bool:
    """Whether a model is Cox's of scikit-survival.

    Raises:
        TypeError: for another model of that library, with what to use in its place.
    """
    kinds = [kind for kind in type(model).__mro__ if kind.__module__.partition(".")[0] == "sksurv"]
    if not kinds:
        return False
    names = [kind.__name__ for kind in kinds]
    if "CoxPHSurvivalAnalysis" in names:
        return True
    instead = next(
        (UNREAD[name] for name in names if name in UNREAD), "its objective is not among those that are read"
    )
    raise TypeError(
        f"{type(model).__name__} of scikit-survival is not supported: {instead}; "
        "uw.by_refitting(estimator, X, y) answers by training it again"
    )


def outcomes(y: Any) -> Float[Tensor, "m 3"]:
    """Times, events and strata (m, 3) of a structured array of scikit-survival, (event, time); zeros for None.

    Raises:
        TypeError: for other targets.
    """
    fields = getattr(getattr(y, "dtype", None), "names", None)
    if fields is None or len(fields) != 2:
        raise TypeError(
            f"y must be a structured array of events and times, as Surv.from_arrays makes it, got {type(y).__name__}"
        )
    event, time = (np.asarray(y[name], dtype=np.float64) for name in fields)
    return torch.from_numpy(np.column_stack([time, event, np.zeros(len(time))]))


def survival_problem(
    settled: Chosen, parts: tuple[Any, Any], data: tuple[Any, Any], keep: Keep | None
) -> LikelihoodProblem:
    """The problem of a fitted CoxPHSurvivalAnalysis: the sum of the losses + 1/2 sum_j alpha_j coef_j^2.

    Args:
        settled: the estimator.
        parts: the fitted model in it, and the transformers before it or None.
        data: n rows as the user has them, and their events and times.
        keep: which retraining is predicted; None: its own, where the penalty on the sum of the losses stays.
    """
    (model, transform), (X, y) = parts, data
    unknown = () if transform is None else check_transformers(transform, X, y)
    inputs, held = Inputs(settled.estimator, transform), () if transform is None else (HELD,)

    def prepare(X: Any, y: Any) -> tuple[Tensor, Tensor]:
        columns = dense(inputs(X))
        return columns, columns.new_zeros(len(columns), 3) if y is None else outcomes(y)

    columns, known = prepare(X, y)
    alpha = torch.as_tensor(model.alpha, dtype=torch.float64)
    return LikelihoodProblem(
        PartialLikelihood(columns, known, efron=model.ties == "efron", standardised=False),
        np.array(model.coef_, dtype=np.float64),
        l2=alpha / len(known),
        weights=np.ones(len(known)),
        keep=keep or "total",
        terms=Terms(
            prepare=prepare,
            feature_names=column_names(settled.estimator, transform, X),
            train_index=batch_index((X, y)),
            notes=(*settled.notes, *held, *unknown),
        ),
    )
