"""Rows, labels and columns as their user calls them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from ..linear.problem import LinearProblem
from ..losses import MarginLoss, Softmax
from ..measures import Overall, margin
from ..objective import Objective
from ..types import Tensor


def row_names(problem: Objective, rows: Tensor) -> pd.Index:
    """The ids of training rows, or their numbers."""
    index = problem.train_index
    found = pd.Index(rows.numpy()) if index is None else index.take(rows.numpy())
    return found.rename("train row")


def is_classifier(problem: Objective) -> bool:
    """Whether the outputs of a linear problem decide between classes."""
    return isinstance(problem, LinearProblem) and isinstance(problem.loss, (Softmax, MarginLoss))


def decided(outputs: Tensor) -> Tensor:
    """The class that outputs (b, c) decide for, as the loss encodes it: 0..c-1, or -1/+1 of one output."""
    if outputs.shape[1] == 1:
        return torch.where(outputs[:, 0] > 0, 1.0, -1.0).to(outputs.dtype)
    return outputs.argmax(1)


def margins(outputs: Tensor, classes: Tensor) -> Tensor:
    """What encoded classes (b,) are ahead of their strongest rivals in outputs (b, c); negative = not decided for."""
    return outputs[:, 0] * classes if outputs.shape[1] == 1 else margin(outputs, classes)


def mean_loss(problem: LinearProblem) -> Overall:
    """The mean loss of a whole test batch: one question, however many rows it has."""
    return Overall(lambda outputs, y: problem.loss.value(outputs, problem._encode(y, len(outputs))).mean())


def label_names(problem: LinearProblem, targets: Tensor) -> np.ndarray:
    """Encoded targets as the user's labels."""
    if not is_classifier(problem) or problem.classes is None:
        return targets.numpy()
    codes = (targets > 0).long() if targets.is_floating_point() else targets
    return np.asarray(problem.classes, dtype=object)[codes.numpy()]


def feature_name(problem: Objective, column: int) -> str:
    """The name of a column of X."""
    return f"column {column}" if problem.feature_names is None else problem.feature_names[column]


def in_words(problem: Objective, shares: Any, count: int) -> str:
    """The `count` largest of the columns' shares (d,), as "age 90%, sex 5%"."""
    shares = torch.as_tensor(shares)
    order = shares.abs().topk(min(count, len(shares))).indices.tolist()
    return ", ".join(f"{feature_name(problem, j)} {float(shares[j]):.0%}" for j in order if shares[j] != 0)
