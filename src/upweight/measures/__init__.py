"""What is asked about in place of the loss: of an example, of a whole reference set, of the parameters."""

from .kinds import Look, Measure, MeasureLike, Nearby, OfParameters, Overall, PerExample, as_measure, name_of
from .of_examples import logit, margin, prediction, probability, share_of_sigmoids
from .of_sets import (
    accuracy,
    at_threshold,
    auroc,
    average_precision,
    brier,
    calibration_error,
    cohens_d,
    false_positive_rate,
    gap,
    highest,
    lowest,
    selection_rate,
    true_positive_rate,
)

__all__ = [
    "Look",
    "Measure",
    "MeasureLike",
    "Nearby",
    "OfParameters",
    "Overall",
    "PerExample",
    "accuracy",
    "as_measure",
    "at_threshold",
    "auroc",
    "average_precision",
    "brier",
    "calibration_error",
    "cohens_d",
    "false_positive_rate",
    "gap",
    "highest",
    "logit",
    "lowest",
    "margin",
    "name_of",
    "prediction",
    "probability",
    "selection_rate",
    "share_of_sigmoids",
    "true_positive_rate",
]
