"""Ways to apply the inverse of a curvature."""

from .base import Inverse, Solution, Solver, Status
from .cg import ConjugateGradient
from .exact import Exact
from .lissa import LiSSA

__all__ = ["ConjugateGradient", "Exact", "Inverse", "LiSSA", "Solution", "Solver", "Status"]
