"""Truth by retraining."""

from .refits import Refit
from .verify import Agreement, Verification, agreement, verify

__all__ = ["Agreement", "Refit", "Verification", "agreement", "verify"]
