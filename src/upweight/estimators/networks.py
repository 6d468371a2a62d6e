"""Networks of fitted estimators as problems of torch: what a reader of them says, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from ..data.user_terms import Terms, batch_index
from ..network.problem import Problem
from ..types import Keep, Tensor
from .refitting import OWN


@dataclass(frozen=True, eq=False)
class FittedNetwork:
    """What a fitted estimator with a network minimised, in the words of `Problem`.

    Args:
        module: the network with its weights.
        loss: the loss of one example.
        l2: the strength of the penalty on the mean loss, one per parameter (p,).
        keep: which retraining the same estimator does without some rows.
        classes: the labels in the order of the outputs, or None for numbers and for classes that are numbers.
        inputs: from inputs as the estimator takes them to those of the module.
        targets: from targets as the estimator takes them to those of the loss.
        further: from some rows' inputs, targets as the estimator takes them, and weights, to the network trained on.
        rows: the numbers of the rows that it trained on, or None for all.
        notes: what to know of its training, a sentence each.
    """

    module: nn.Module
    loss: Callable[[Any, Any], Tensor]
    l2: Tensor
    keep: Keep
    classes: tuple[Any, ...] | None
    inputs: Callable[[Any], Tensor]
    targets: Callable[[Any], Tensor]
    further: Callable[[Any, Any, Any], nn.Module]
    rows: np.ndarray | None = None
    notes: tuple[str, ...] = ()


NetworkReader = Callable[[Any, Any, Any, Any], FittedNetwork]
"""From a fitted estimator, its inputs, targets and weights to what it minimised."""

MANY_OPTIMA = (
    "a network has many optima: effects, and refits that judge them, are those near the weights that training ended "
    "at; training from first weights ends elsewhere"
)


def network_problem(
    found: FittedNetwork,
    given: tuple[Any, Any],
    trained_on: tuple[Any, Any, Any],
    transformed: tuple[Callable[[Any], Any], Callable[[Any], Any]],
    said: tuple[Keep | None, tuple[str, ...] | None, tuple[str, ...]],
) -> Problem:
    """The problem of a fitted network, in the user's own terms.

    Args:
        found: what it minimised.
        given: inputs and targets as the user has them.
        trained_on: inputs, targets and weights as the estimator takes them, all n rows.
        transformed: from the user's inputs, and targets, to those of the estimator.
        said: the user's `keep`, the names of the columns, and what is held fixed.
    """
    from sklearn.utils import _safe_indexing

    (X, y, weights), (keep, names, held) = trained_on, said
    index = batch_index(given)
    if (rows := found.rows) is not None:
        index = pd.RangeIndex(len(X))[rows] if index is None else index[rows]
        X, y = X[rows], y[rows]
    train = found.inputs(X), found.targets(y)
    keep = keep or found.keep
    problem = Problem(found.module, found.loss, train, l2=found.l2, weights=weights, keep=keep)
    inputs, targets = transformed
    problem = problem.changed(
        terms=Terms(
            prepare=lambda X, y: (found.inputs(inputs(X)), found.targets(targets(y))),
            feature_names=names,
            train_index=index,
            classes=found.classes,
            notes=(*held, *found.notes),
        )
    )

    def again(kept: Tensor) -> Problem:
        own = kept.numpy()
        w = None if weights is None else np.asarray(weights)[own]
        return problem.retrained(found.further(_safe_indexing(X, own), _safe_indexing(y, own), w))

    problem.cache[OWN] = again
    return problem


def penalties(module: nn.Module, strength: Callable[[nn.Parameter], float]) -> Tensor:
    """The strength of the penalty on each number (p,) of the trained parameters, from that of each parameter."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.cat([torch.full((p.numel(),), float(strength(p)), dtype=torch.float64) for p in trained])
