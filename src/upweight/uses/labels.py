"""Rows, labels and columns as their user calls them."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..data.names import called
from ..measures import Overall, margin
from ..objective import LinearModel, Objective
from ..outputs import Editable, OutputModel
from ..types import Tensor

ROUNDING = 1e-9
"""By how much a probability is above a bar at least: no label is contradicted by rounding."""


def row_names(problem: Objective, rows: Tensor) -> pd.Index:
    """What training rows (k,) are called in tables: their ids where the data came with some, else their numbers."""
    return called(rows.numpy(), problem.train_index).rename("train row")


def classifier(problem: Objective) -> LinearModel | None:
    """The linear model whose outputs decide between classes, or None where the problem is none.

    Networks and regressions are none: nothing says which of their outputs are classes. Nor are machines for pairs of
    classes, of which votes decide.
    """
    model = problem.linear
    return model if model is not None and model.loss.classifies and not model.loss.pairs else None


def editable(problem: Objective) -> Editable | None:
    """The classifier as what is trained here anew with rows removed or relabelled; None where it is none."""
    if problem.reduced is not None:
        return cast(Editable | None, problem.reduced.editable)
    return classifier(problem)


def decided(outputs: Tensor) -> Tensor:
    """The class that outputs (b, c) decide for, as the loss encodes it: 0..c-1, or -1/+1 of one output.

    An output of 0 decides for -1, equal outputs for the first class.

    >>> decided(torch.tensor([[0.3], [-2.0]])), decided(torch.tensor([[0.1, 0.5, 0.2]]))
    (tensor([ 1., -1.]), tensor([1]))
    """
    if outputs.shape[1] == 1:
        return torch.where(outputs[:, 0] > 0, 1.0, -1.0).to(outputs.dtype)
    return outputs.argmax(1)


def margins(outputs: Tensor, classes: Tensor) -> Tensor:
    """The outputs of encoded classes (b,) less those of their strongest rivals, from outputs (b, c).

    Of one output it is the output times the class, -1 or +1; negative = not decided for.

    >>> (
    ...     margins(torch.tensor([[2.0]]), torch.tensor([-1.0])),
    ...     margins(torch.tensor([[1.0, 5.0]]), torch.tensor([1])),
    ... )
    (tensor([-2.]), tensor([4.]))
    """
    return outputs[:, 0] * classes if outputs.shape[1] == 1 else margin(outputs, classes)


def confidences(model: OutputModel, outputs: Tensor) -> Float[Tensor, "b classes"]:
    """How sure outputs (b, c) are of each class: probabilities (b, classes), of which every row sums to 1.

    Of losses that give no probabilities, as a hinge, they are numbers that rise with the output all the same.
    """
    if outputs.shape[1] == 1:
        return torch.cat([-outputs, outputs], dim=1).sigmoid()
    if model.loss.separate_outputs:
        alone = outputs.sigmoid()
        return alone / alone.sum(1, keepdim=True)
    return outputs.softmax(1)


def bars(model: OutputModel, outputs: Tensor, labels: Tensor) -> Float[Tensor, " classes"]:
    """How sure of each class a model is on average of the rows that bear it (classes,); infinite where unknown.

    It knows a class where it is surer of it in these rows than in all others, by more than two standard errors: where
    labels are noise to a model, its doubts mean nothing.

    Args:
        model: a linear classifier.
        outputs: of a model that has not seen the rows (b, c); NaN where there are none.
        labels: encoded classes (b,).
    """
    sure, own = confidences(model, outputs), _class_numbers(outputs, labels)
    found = torch.full((sure.shape[1],), torch.inf, dtype=sure.dtype)
    for code in range(sure.shape[1]):
        told = sure[:, code]
        mine, others = (told[side & ~told.isnan()] for side in (own == code, own != code))
        if min(len(mine), len(others)) > 1:
            error = (mine.var() / len(mine) + others.var() / len(others)).sqrt()
            if mine.mean() - others.mean() > 2 * error:
                found[code] = mine.mean()
    return found


def contradicted(
    model: OutputModel, outputs: Tensor, labels: Tensor, bar: Float[Tensor, " classes"]
) -> Bool[Tensor, " b"]:
    """Which labels are contradicted by a model that is usually less sure, as confident learning counts them.

    Northcutt et al., "Confident Learning" (2021): the bar of a class is the mean of its probability over the rows that
    bear its label. A label is contradicted where of all classes whose probability is above their bars the likeliest is
    another one, and the model decides for another one too. Errors that the model makes because a class is rare stay
    below the bar mostly: the model is as unsure of these rows as it always is.

    Args:
        model: a linear classifier.
        outputs: of a model that has not seen the rows (b, c); rows that are NaN are not contradicted.
        labels: encoded classes (b,).
        bar: of each class (classes,), as `bars` finds them.
    """
    sure, own = confidences(model, outputs), _class_numbers(outputs, labels)
    above = sure > bar * (1 + ROUNDING)
    rival = torch.where(above, sure, -1.0).argmax(1)
    return above.any(1) & (rival != own) & (sure.argmax(1) != own)


def _class_numbers(outputs: Tensor, labels: Tensor) -> Int[Tensor, " b"]:
    """Encoded classes as numbers 0..classes-1: -1 and +1 of a single output are 0 and 1."""
    return ((labels > 0) if outputs.shape[1] == 1 else labels).long().flatten()


def mean_loss(model: LinearModel) -> Overall:
    """The mean loss of a whole test batch as a measure: one question and one solve, however many rows it has."""
    return Overall(lambda outputs, y: model.loss.value(outputs, model.encode(y, len(outputs))).mean())


def margin_of_targets(model: OutputModel, outputs: Tensor, targets: Any) -> Tensor:
    """The margins (b,) of targets as the user has them: own class less strongest rival; negative = the model is wrong.

    Args:
        model: a linear classifier.
        outputs: (b, c).
        targets: the classes as the user has them, (b,).
    """
    return margins(outputs, model.encode(targets, len(outputs)).flatten())


def label_names(model: OutputModel, targets: Tensor) -> np.ndarray:
    """Encoded targets as the user's own labels (b,); those of a regression, or without names, stay as they are.

    Several targets of one example become a tuple.
    """
    if targets.ndim > 1 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not model.loss.classifies or model.classes is None:
        found = np.empty(len(targets), dtype=object)
        found[:] = [tuple(row) for row in targets.tolist()] if targets.ndim > 1 else None
        return found if targets.ndim > 1 else targets.numpy()
    codes = (targets > 0).long() if targets.is_floating_point() else targets
    return np.asarray(model.classes, dtype=object)[codes.numpy()]


def feature_name(problem: Objective, column: int) -> str:
    """The name of a column of X, or "column 3" where columns have none."""
    return f"column {column}" if problem.feature_names is None else problem.feature_names[column]
