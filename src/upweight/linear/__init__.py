"""Linear models in closed form."""

from .problem import LinearProblem

__all__ = ["LinearProblem"]
