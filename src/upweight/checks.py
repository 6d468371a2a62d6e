"""The assumptions behind influence functions, checked."""

from __future__ import annotations

import torch

from .errors import NotDeterministicError
from .objective import Objective
from .types import Tensor


def determinism(problem: Objective) -> None:
    """Raise `NotDeterministicError` unless two passes over the training data give the same gradient.

    Dropout, augmentation and shuffling all show here.
    """
    if problem.deterministic:
        return
    first, second = problem.gradient(), problem.gradient()
    scale = float(first.norm())
    gap = float((first - second).norm())
    if gap > 1e-3 * scale + 1e3 * torch.finfo(first.dtype).eps:
        raise NotDeterministicError(
            f"two passes over the training data gave gradients that differ by {gap:.1e} (norm {scale:.1e}); "
            "call model.eval() and turn off shuffling and augmentation"
        )


def drift(gradient: Tensor, solved: Tensor) -> Tensor:
    """The predicted change (m,) of each measure if training were finished: -s . grad R, a Newton step's effect.

    It measures stationarity in the unit that matters: effects smaller than the drift are below the model's own
    distance from its optimum (the Newton decrement, seen through the measure).
    """
    return -(solved @ gradient)
