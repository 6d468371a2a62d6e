"""Classifiers whose parameters are moments of the rows of each class: what removals do to them has a closed form."""

from .gaussians import FullGaussians, Gaussians, NaiveGaussians, SharedGaussians, SharedScaled
from .problem import MomentProblem
from .sums import ClassRows, Moments

__all__ = [
    "ClassRows",
    "FullGaussians",
    "Gaussians",
    "MomentProblem",
    "Moments",
    "NaiveGaussians",
    "SharedGaussians",
    "SharedScaled",
]
