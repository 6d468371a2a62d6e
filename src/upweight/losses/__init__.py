"""Losses of linear models, with their first two derivatives in the outputs."""

from .linear import (
    LinearLoss,
    Logistic,
    MarginLoss,
    Parts,
    SmoothHinge,
    Softmax,
    Squared,
    SquaredHinge,
    next_token,
    signs,
)
from .margins import ModifiedHuber, SquaredMargin
from .regressions import (
    Huber,
    ResidualLoss,
    SmoothEpsilonInsensitive,
    SmoothPinball,
    SquaredEpsilonInsensitive,
    Tweedie,
)
from .shares import Brier

__all__ = [
    "Brier",
    "Huber",
    "LinearLoss",
    "Logistic",
    "MarginLoss",
    "ModifiedHuber",
    "Parts",
    "ResidualLoss",
    "SmoothEpsilonInsensitive",
    "SmoothHinge",
    "SmoothPinball",
    "Softmax",
    "Squared",
    "SquaredEpsilonInsensitive",
    "SquaredHinge",
    "SquaredMargin",
    "Tweedie",
    "next_token",
    "signs",
]
