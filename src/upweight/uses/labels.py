"""Rows, labels and columns as their user calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..measures import Overall, margin
from ..objective import LinearModel, Objective
from ..types import Tensor


def row_names(problem: Objective, rows: Tensor) -> pd.Index:
    """The ids of training rows, or their numbers."""
    index = problem.train_index
    found = pd.Index(rows.numpy()) if index is None else index.take(rows.numpy())
    return found.rename("train row")


def classifier(problem: Objective) -> LinearModel | None:
    """The linear model whose outputs decide between classes, or None where the problem is none."""
    model = problem.linear
    return model if model is not None and model.loss.classifies else None


def decided(outputs: Tensor) -> Tensor:
    """The class that outputs (b, c) decide for, as the loss encodes it: 0..c-1, or -1/+1 of one output."""
    if outputs.shape[1] == 1:
        return torch.where(outputs[:, 0] > 0, 1.0, -1.0).to(outputs.dtype)
    return outputs.argmax(1)


def margins(outputs: Tensor, classes: Tensor) -> Tensor:
    """What encoded classes (b,) are ahead of their strongest rivals in outputs (b, c); negative = not decided for."""
    return outputs[:, 0] * classes if outputs.shape[1] == 1 else margin(outputs, classes)


def mean_loss(model: LinearModel) -> Overall:
    """The mean loss of a whole test batch: one question, however many rows it has."""
    return Overall(lambda outputs, y: model.loss.value(outputs, model.encode(y, len(outputs))).mean())


def margin_of_targets(model: LinearModel, outputs: Tensor, targets: Any) -> Tensor:
    """What each target's own class is ahead of its strongest rival, (b,); negative = the model is wrong about it.

    Args:
        model: a linear classifier.
        outputs: (b, c).
        targets: the classes as the user has them, (b,).
    """
    return margins(outputs, model.encode(targets, len(outputs)).flatten())


def label_names(model: LinearModel, targets: Tensor) -> np.ndarray:
    """Encoded targets as the user's labels."""
    if not model.loss.classifies or model.classes is None:
        return targets.numpy()
    codes = (targets > 0).long() if targets.is_floating_point() else targets
    return np.asarray(model.classes, dtype=object)[codes.numpy()]


def feature_name(problem: Objective, column: int) -> str:
    """The name of a column of X."""
    return f"column {column}" if problem.feature_names is None else problem.feature_names[column]


def in_words(problem: Objective, shares: Any, count: int) -> str:
    """The `count` largest of the columns' shares (d,), as "age 90%, sex 5%"."""
    shares = torch.as_tensor(shares)
    order = shares.abs().topk(min(count, len(shares))).indices.tolist()
    return ", ".join(f"{feature_name(problem, j)} {float(shares[j]):.0%}" for j in order if shares[j] != 0)
