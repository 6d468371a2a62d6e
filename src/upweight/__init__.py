"""Explain a trained model by its training data, and check the explanation by retraining."""

import typing as _typing
from importlib import import_module as _import_module

from . import moved as _moved

if _typing.TYPE_CHECKING:  # each is imported at its first use: whoever asks for help waits for no torch
    from .curvature import EKFAC, Dense, GaussNewton, Hessian, Nystrom, Stagewise
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
    from .estimators import from_estimator, from_results
    from .influence import GradientIndex, IndexRecorder, Influence, Scores, ScoreStore, Unrolled
    from .linear import LinearProblem
    from .losses import (
        Huber,
        Logistic,
        ModifiedHuber,
        SmoothEpsilonInsensitive,
        SmoothHinge,
        SmoothPinball,
        Softmax,
        Squared,
        SquaredEpsilonInsensitive,
        SquaredHinge,
        SquaredMargin,
        Tweedie,
    )
    from .measures import OfParameters, Overall, PerExample
    from .network import Problem, class_weighted, token_mean
    from .retraining import by_refitting
    from .solvers import Arnoldi, BackSubstitution, ConjugateGradient, Exact, LiSSA
    from .training import (
        OptimizerRule,
        Recorder,
        Segments,
        TrainerRecorder,
        TrainingRun,
        from_trainer,
        register_optimizer,
    )
    from .trees import TreeProblem
    from .uses import (
        Box,
        Errors,
        MeanPrediction,
        NotReversed,
        RobustnessTable,
        Sign,
        Significant,
        attack,
        diagnostics,
        explain,
        flip_set,
        inference_measure,
        inference_without,
        mislabeled,
        mismatch,
        removal_receipt,
        robustness,
        robustness_table,
        stability,
        token_scores,
        trust,
        vulnerability,
        vulnerable_targets,
    )
    from .validation import Verification, verify

    __version__: str

__all__ = [
    "EKFAC",
    "ApproximationWarning",
    "Arnoldi",
    "BackSubstitution",
    "Box",
    "ConjugateGradient",
    "Dense",
    "DerivativeError",
    "DerivativeWarning",
    "Errors",
    "Exact",
    "GaussNewton",
    "GradientIndex",
    "Hessian",
    "Huber",
    "IndefiniteError",
    "IndexRecorder",
    "Influence",
    "InfluenceError",
    "LiSSA",
    "LinearProblem",
    "Logistic",
    "MeanPrediction",
    "ModifiedHuber",
    "NoOptimumError",
    "NotConvergedError",
    "NotDeterministicError",
    "NotReversed",
    "NotStationaryWarning",
    "Nystrom",
    "OfParameters",
    "OptimizerRule",
    "Overall",
    "PerExample",
    "Problem",
    "RankError",
    "Recorder",
    "RobustnessTable",
    "ScoreStore",
    "Scores",
    "Segments",
    "Sign",
    "Significant",
    "SmallerBlocksWarning",
    "SmoothEpsilonInsensitive",
    "SmoothHinge",
    "SmoothPinball",
    "Softmax",
    "Squared",
    "SquaredEpsilonInsensitive",
    "SquaredHinge",
    "SquaredMargin",
    "Stagewise",
    "StaleError",
    "TrainerRecorder",
    "TrainingRun",
    "TreeProblem",
    "Tweedie",
    "Unrolled",
    "Verification",
    "attack",
    "by_refitting",
    "class_weighted",
    "diagnostics",
    "explain",
    "flip_set",
    "from_estimator",
    "from_results",
    "from_trainer",
    "inference_measure",
    "inference_without",
    "mislabeled",
    "mismatch",
    "register_optimizer",
    "removal_receipt",
    "robustness",
    "robustness_table",
    "stability",
    "stream",
    "token_mean",
    "token_scores",
    "trust",
    "verify",
    "vulnerability",
    "vulnerable_targets",
]

_HOMES = {
    "curvature": "EKFAC Dense GaussNewton Hessian Nystrom Stagewise",
    "data.design_on_disk": "stream",
    "errors": "ApproximationWarning DerivativeError DerivativeWarning IndefiniteError InfluenceError "
    "NoOptimumError NotConvergedError NotDeterministicError NotStationaryWarning RankError "
    "SmallerBlocksWarning StaleError",
    "estimators": "from_estimator from_results",
    "influence": "GradientIndex IndexRecorder Influence Scores ScoreStore Unrolled",
    "linear": "LinearProblem",
    "losses": "Huber Logistic ModifiedHuber SmoothEpsilonInsensitive SmoothHinge SmoothPinball Softmax Squared "
    "SquaredEpsilonInsensitive SquaredHinge SquaredMargin Tweedie",
    "measures": "OfParameters Overall PerExample",
    "network": "Problem class_weighted token_mean",
    "retraining": "by_refitting",
    "solvers": "Arnoldi BackSubstitution ConjugateGradient Exact LiSSA",
    "training": "OptimizerRule Recorder Segments TrainerRecorder TrainingRun from_trainer register_optimizer",
    "trees": "TreeProblem",
    "uses": "Box Errors MeanPrediction NotReversed RobustnessTable Sign Significant attack diagnostics explain "
    "flip_set inference_measure inference_without mislabeled mismatch removal_receipt robustness robustness_table "
    "stability token_scores trust vulnerability vulnerable_targets",
    "validation": "Verification verify",
}
"""Where the public names are, as the imports above say it to type checkers: module -> names."""
_MODULES = (
    "capabilities curvature data errors estimators evaluation frozen influence linalg linear losses measures "
    "network objective penalty plots retraining runtime solvers training types uses validation vision"
)
"""Modules that are attributes without an import statement of their own."""
_moved.install()


def __getattr__(name: str) -> _typing.Any:
    """A public name or module, imported at its first use: torch, SciPy and pandas are loaded then."""
    if name in _MODULES.split():
        return _import_module(f"{__name__}.{name}")
    if name == "__version__":
        from importlib.metadata import version

        value: object = version("upweight")
    else:
        home = next((home for home, names in _HOMES.items() if name in names.split()), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(_import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES.split(), "__version__"})
