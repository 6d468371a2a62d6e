"""Trees of every library as one objective in their leaf values, the structure held fixed; no library is imported."""

from .problem import TreeProblem

__all__ = ["TreeProblem"]
