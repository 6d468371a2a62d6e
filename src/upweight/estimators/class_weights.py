"""The class weights of an estimator, and what they count, as its own fit computes them."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from .reading import Reading


def class_weights(model: Any, codes: np.ndarray, sample_weight: Any, reading: Reading) -> Any:
    """The weight of each class, or None.

    Args:
        model: the fitted estimator.
        codes: the class of each training row (n,).
        sample_weight: the weights that it was fitted with, or None.
        reading: what it minimised.

    Raises:
        ValueError: where an example has no one weight.
    """
    class_weight = getattr(model, "class_weight", None)  # regressions have none
    if class_weight is None:
        return None
    if reading.loss.separate_outputs and len(reading.coef) > 1 and not reading.weighs_examples:
        raise ValueError(
            "class_weight with more than two classes, one against the rest, is not supported: each of the models "
            "weighs its own class alone, so that an example has no one weight; fit with sample_weight instead"
        )
    from sklearn.utils.class_weight import compute_class_weight

    options: dict[str, Any] = {"classes": np.asarray(model.classes_), "y": np.asarray(model.classes_)[codes]}
    if _counts_weights(reading):
        options["sample_weight"] = sample_weight
    return compute_class_weight(class_weight, **options)


def _counts_weights(reading: Reading) -> bool:
    """Whether "balanced" counts examples by their sample weights; until scikit-learn 1.7 nobody did."""
    from sklearn.utils.class_weight import compute_class_weight

    return reading.counts_weights and "sample_weight" in inspect.signature(compute_class_weight).parameters


def counted(model: Any, codes: np.ndarray, sample_weight: Any, reading: Reading) -> np.ndarray | None:
    """What each example counts for in the weight of its class, or None for class weights that stay.

    Args:
        model: the fitted estimator.
        codes: the class of each training row (n,).
        sample_weight: the weights that it was fitted with, or None.
        reading: what it minimised.
    """
    if getattr(model, "class_weight", None) != "balanced":
        return None
    weighs = sample_weight is not None and _counts_weights(reading)
    return np.asarray(sample_weight, dtype=np.float64) if weighs else np.ones(len(codes))
