"""A curvature that somebody else has computed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch

from ..linalg.coordinates import Coordinates, power_of_two
from ..linalg.factorizations import CholeskyFactor, Factor
from ..runtime.fingerprint import content_hash
from ..types import Operator, Tensor
from .base import Curvature, check_damping


@dataclass(frozen=True, eq=False)
class Dense(Curvature):
    """A given symmetric matrix plus damping * I: a curvature that you have computed yourself.

    The matrix is kept as it is and never written to; products and factors are taken on the processor.

    Args:
        explicit: the matrix (p, p), symmetric to rounding.
        damping: what is added to the diagonal, >= 0.

    Raises:
        ValueError: for a matrix that is not square or not symmetric, and for negative damping.

    >>> import torch
    >>> Dense(2 * torch.eye(3)).factor().solve(torch.ones(1, 3))
    tensor([[0.5000, 0.5000, 0.5000]])
    """

    explicit: Tensor
    damping: float = 0.0

    def __post_init__(self) -> None:
        check_damping(self.damping)
        A = self.explicit
        if A.ndim != 2 or A.shape[0] != A.shape[1]:
            raise ValueError(f"a dense curvature must have shape (p, p), got {tuple(A.shape)}")
        if not torch.allclose(A, A.T, rtol=1e-4, atol=1e-6 * float(A.abs().max())):
            raise ValueError(
                "a dense curvature must be symmetric; pass (A + A.T) / 2 if that is what you mean"
            )

    @property
    def p(self) -> int:
        return len(self.explicit)

    @property
    def dtype(self) -> torch.dtype:
        return self.explicit.dtype

    @property
    def precisions(self) -> tuple[torch.dtype, ...]:
        return (self.dtype,)

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def shift(self) -> float:
        return self.damping

    @cached_property
    def coordinates(self) -> Coordinates:  # type: ignore[override]
        return Coordinates(power_of_two((self.explicit.diagonal() + self.damping).sqrt()))

    @property
    def semidefinite(self) -> bool:
        return False

    def damped(self, damping: float) -> Dense:
        return dataclasses.replace(self, damping=damping)

    def operator(self, dtype: torch.dtype | None = None) -> Operator:
        A = self.explicit.to(dtype or self.dtype)
        return lambda rows: rows @ A + self.damping * rows

    def factor(self, dtype: torch.dtype | None = None) -> Factor:
        A = self.explicit.to(dtype or self.dtype, copy=True)
        A.diagonal().add_(self.damping)
        return CholeskyFactor(A)

    def fingerprint(self) -> str:
        return f"Dense({content_hash([self.explicit])}, damping={self.damping!r})"
