"""What can go wrong, each with a remedy in its message.

Bad input raises `ValueError` or `TypeError`. What only shows in the numbers derives from `InfluenceError`.
"""

from __future__ import annotations


class InfluenceError(Exception):
    """An answer could not be given, or not with the asked accuracy."""


class IndefiniteError(InfluenceError):
    """The curvature has a negative or zero eigenvalue: there is no quadratic minimum to speak of (Sec. 4.2)."""

    def __init__(self, message: str, eigenvalue: float | None = None) -> None:
        super().__init__(message)
        self.eigenvalue = eigenvalue


class NotConvergedError(InfluenceError):
    """A solve stopped before its residual reached the tolerance."""


class NotDeterministicError(InfluenceError):
    """Two passes over the same training data gave different numbers."""


class NotStationaryWarning(UserWarning):
    """The parameters are not where training would end: influence functions describe a minimum."""


class ApproximationWarning(UserWarning):
    """A problem stands for the user's model only up to a stated difference."""


class SmallerBlocksWarning(UserWarning):
    """Memory ran out, and work goes on in smaller blocks."""


class StaleError(InfluenceError):
    """Weights, data or settings differ from those that the answer was computed with."""


class RankError(InfluenceError):
    """A process of a distributed job failed or holds other data than the first; every rank raises it."""
