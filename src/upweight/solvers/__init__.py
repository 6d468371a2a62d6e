"""Ways to apply the inverse of a curvature."""

from .arnoldi import Arnoldi
from .back_substitution import BackSubstitution
from .base import Inverse, Solution, Solver, Status
from .cg import ConjugateGradient
from .exact import Exact
from .lissa import LiSSA

__all__ = [
    "Arnoldi",
    "BackSubstitution",
    "ConjugateGradient",
    "Exact",
    "Inverse",
    "LiSSA",
    "Solution",
    "Solver",
    "Status",
]
