"""Any torch model: evaluation, derivatives, layers."""

from .problem import Problem
from .trained import class_weighted, token_mean

__all__ = ["Problem", "class_weighted", "token_mean"]
