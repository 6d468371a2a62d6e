"""From a fitted scikit-learn estimator to the problem that it solved."""
