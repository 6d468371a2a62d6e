"""Explain a trained model by its training data, and check the explanation by retraining."""

from importlib.metadata import version

from .curvature import Dense, GaussNewton, Hessian
from .ekfac import EKFAC
from .errors import (
    ApproximationWarning,
    IndefiniteError,
    InfluenceError,
    NotConvergedError,
    NotDeterministicError,
    NotStationaryWarning,
    RankError,
    SmallerBlocksWarning,
    StaleError,
)
from .estimators import from_estimator
from .influence import Influence
from .linear import LinearProblem
from .losses import Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from .measures import OfParameters, Overall
from .nystrom import Nystrom
from .problem import Problem
from .scores import Scores
from .solvers import Arnoldi, ConjugateGradient, Exact, LiSSA
from .store import ScoreStore
from .streams import stream
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
from .verify import Verification, verify

__version__ = version("upweight")

__all__ = [
    "EKFAC",
    "ApproximationWarning",
    "Arnoldi",
    "Box",
    "ConjugateGradient",
    "Dense",
    "Exact",
    "GaussNewton",
    "Hessian",
    "IndefiniteError",
    "Influence",
    "InfluenceError",
    "LiSSA",
    "LinearProblem",
    "Logistic",
    "NotConvergedError",
    "NotDeterministicError",
    "NotStationaryWarning",
    "Nystrom",
    "OfParameters",
    "Overall",
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
    "explain",
    "flip_set",
    "from_estimator",
    "mislabeled",
    "mismatch",
    "stream",
    "trust",
    "verify",
    "vulnerability",
    "vulnerable_targets",
]
