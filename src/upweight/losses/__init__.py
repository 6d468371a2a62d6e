"""Losses of linear models, with their first two derivatives in the outputs."""

from .generalised import GeneralisedLinear
from .language import next_token, token_losses
from .linear import (
    LinearLoss,
    Logistic,
    MarginLoss,
    SmoothHinge,
    Softmax,
    Squared,
    SquaredHinge,
    signs,
)
from .margins import ModifiedHuber, SquaredMargin
from .offsets import ReferenceSoftmax, WithOffset
from .parts import Parts
from .proportions import Proportion
from .regressions import (
    Huber,
    ResidualLoss,
    SmoothEpsilonInsensitive,
    SmoothPinball,
    SquaredEpsilonInsensitive,
    Tweedie,
)
from .several_labels import SeveralLabels
from .shares import Brier

__all__ = [
    "Brier",
    "GeneralisedLinear",
    "Huber",
    "LinearLoss",
    "Logistic",
    "MarginLoss",
    "ModifiedHuber",
    "Parts",
    "Proportion",
    "ReferenceSoftmax",
    "ResidualLoss",
    "SeveralLabels",
    "SmoothEpsilonInsensitive",
    "SmoothHinge",
    "SmoothPinball",
    "Softmax",
    "Squared",
    "SquaredEpsilonInsensitive",
    "SquaredHinge",
    "SquaredMargin",
    "Tweedie",
    "WithOffset",
    "next_token",
    "signs",
    "token_losses",
]
