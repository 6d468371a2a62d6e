"""Any torch model: evaluation, derivatives, layers."""

from .problem import Problem

__all__ = ["Problem"]
