"""Curvatures: operators on flat vectors, with their damping. They know an objective, and no solver."""

from .base import Curvature
from .dense import Dense
from .ekfac import EKFAC
from .hessian import GaussNewton, Hessian
from .nystrom import Nystrom
from .stagewise import Stagewise

__all__ = ["EKFAC", "Curvature", "Dense", "GaussNewton", "Hessian", "Nystrom", "Stagewise"]
