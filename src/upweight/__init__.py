"""Explain a trained model by its training data, and check the explanation by retraining."""

from importlib.metadata import version

from .curvature.base import Dense, GaussNewton, Hessian
from .curvature.ekfac import EKFAC
from .curvature.nystrom import Nystrom
from .data.design_on_disk import stream
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
from .estimators.from_estimator import from_estimator
from .influence.influence import Influence
from .influence.score_store import ScoreStore
from .influence.scores import Scores
from .linear.problem import LinearProblem
from .losses import Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from .measures import OfParameters, Overall
from .network.problem import Problem
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
from .validation.verify import Verification, verify

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
