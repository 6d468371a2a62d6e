"""Truth by retraining."""
