"""From a fitted estimator of scikit-learn, or fitted results of statsmodels, to the problem that they solved."""

from .from_estimator import from_estimator
from .from_results import from_results

__all__ = ["from_estimator", "from_results"]
