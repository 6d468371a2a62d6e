"""Answers by retraining any estimator, where no derivative reaches."""

from .answers import OutOfBag, RemovalByRefits
from .by_refitting import Budget, Refits, by_refitting

__all__ = ["Budget", "OutOfBag", "Refits", "RemovalByRefits", "by_refitting"]
