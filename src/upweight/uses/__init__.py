"""What influence is used for: to explain a prediction, find wrong labels, compare populations, flip a decision."""

from .explain import Explanation, explain
from .flip_set import FlipSet, flip_set
from .mislabeled import Suspects, mislabeled
from .mismatch import Mismatch, mismatch
from .trust import Trust, trust

__all__ = [
    "Explanation",
    "FlipSet",
    "Mismatch",
    "Suspects",
    "Trust",
    "explain",
    "flip_set",
    "mislabeled",
    "mismatch",
    "trust",
]
