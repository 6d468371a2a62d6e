"""Explain a trained model by its training data, and check the explanation by retraining."""

from importlib import import_module as _import_module
from importlib.metadata import version as _installed
from typing import Any as _Any

from . import moved as _moved
from .curvature import EKFAC, Dense, GaussNewton, Hessian, Nystrom
from .data.design_on_disk import stream
from .errors import (
    ApproximationWarning,
    DerivativeError,
    DerivativeWarning,
    IndefiniteError,
    InfluenceError,
    NoOptimumError,
    NotConvergedError,
    NotDeterministicError,
    NotStationaryWarning,
    RankError,
    SmallerBlocksWarning,
    StaleError,
)
from .estimators import from_estimator
from .influence import Influence, Scores, ScoreStore
from .linear import LinearProblem
from .losses import Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from .measures import OfParameters, Overall, PerExample
from .network import Problem, class_weighted, token_mean
from .solvers import Arnoldi, ConjugateGradient, Exact, LiSSA
from .uses import (
    Box,
    attack,
    explain,
    flip_set,
    mislabeled,
    mismatch,
    trust,
    vulnerability,
    vulnerable_targets,
)
from .validation import Verification, verify

__version__ = _installed("upweight")

__all__ = [
    "EKFAC",
    "ApproximationWarning",
    "Arnoldi",
    "Box",
    "ConjugateGradient",
    "Dense",
    "DerivativeError",
    "DerivativeWarning",
    "Exact",
    "GaussNewton",
    "Hessian",
    "IndefiniteError",
    "Influence",
    "InfluenceError",
    "LiSSA",
    "LinearProblem",
    "Logistic",
    "NoOptimumError",
    "NotConvergedError",
    "NotDeterministicError",
    "NotStationaryWarning",
    "Nystrom",
    "OfParameters",
    "Overall",
    "PerExample",
    "Problem",
    "RankError",
    "ScoreStore",
    "Scores",
    "SmallerBlocksWarning",
    "SmoothHinge",
    "Softmax",
    "Squared",
    "SquaredHinge",
    "StaleError",
    "Verification",
    "attack",
    "class_weighted",
    "explain",
    "flip_set",
    "from_estimator",
    "mislabeled",
    "mismatch",
    "stream",
    "token_mean",
    "trust",
    "verify",
    "vulnerability",
    "vulnerable_targets",
]

_MODULES = ("evaluation", "frozen", "plots", "vision")
"""Public modules that are imported at their first use: not everybody draws or looks at photographs."""
_moved.install()


def __getattr__(name: str) -> _Any:
    if name in _MODULES:
        return _import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_MODULES])
