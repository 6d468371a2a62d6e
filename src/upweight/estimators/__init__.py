"""From a fitted scikit-learn estimator to the problem that it solved."""

from .from_estimator import from_estimator

__all__ = ["from_estimator"]
