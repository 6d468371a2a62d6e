"""Losses of classifiers as functions of the margin, besides those of `losses`."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..types import Tensor
from .linear import MarginLoss


@dataclass(frozen=True)
class SquaredMargin(MarginLoss):
    """1/2 (1 - m)^2 of the margin m = y eta: least squares on targets -1 and +1, as RidgeClassifier fits them.

    Margins beyond 1 cost too. Its curvature is 1 everywhere, so that leave-one-out predictions are those of refits.

    >>> import torch
    >>> SquaredMargin().value(torch.tensor([[3.0]]), torch.tensor([1.0]))
    tensor([2.])
    """

    separable = False

    def of_margin(self, margin: Tensor) -> Tensor:
        return 0.5 * (1 - margin).square()

    def first_derivative(self, margin: Tensor) -> Tensor:
        return margin - 1

    def second_derivative(self, margin: Tensor) -> Tensor:
        return torch.ones_like(margin)


@dataclass(frozen=True)
class ModifiedHuber(MarginLoss):
    """max(0, 1 - m)^2 of the margin m = y eta, and -4 m where m < -1: a squared hinge that outliers pull less.

    Its curvature is 2 for margins between -1 and 1 and 0 elsewhere.

    >>> import torch
    >>> ModifiedHuber().value(torch.tensor([[-2.0]]), torch.tensor([1.0]))
    tensor([8.])
    """

    def of_margin(self, margin: Tensor) -> Tensor:
        return torch.where(margin < -1, -4 * margin, (1 - margin).clamp(min=0).square())

    def first_derivative(self, margin: Tensor) -> Tensor:
        return torch.where(margin < -1, -4.0, -2 * (1 - margin).clamp(min=0))

    def second_derivative(self, margin: Tensor) -> Tensor:
        return 2 * ((margin < 1) & (margin >= -1)).to(margin)
