"""What influence is used for: explanations, wrong labels, populations, decisions, attacks."""

from .attack import Attack, Box, attack, vulnerability, vulnerable_targets
from .explain import Explanation, explain
from .flip_set import FlipSet, flip_set
from .mislabeled import Suspects, mislabeled
from .mismatch import Mismatch, mismatch
from .trust import Trust, trust

__all__ = [
    "Attack",
    "Box",
    "Explanation",
    "FlipSet",
    "Mismatch",
    "Suspects",
    "Trust",
    "attack",
    "explain",
    "flip_set",
    "mislabeled",
    "mismatch",
    "trust",
    "vulnerability",
    "vulnerable_targets",
]
