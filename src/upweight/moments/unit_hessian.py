"""The Hessian of a distance: the unit matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..capabilities import SecondDerivative
from ..types import Operator, Tensor


@dataclass(frozen=True, eq=False)
class UnitHessian(SecondDerivative):
    """The unit matrix over n."""

    n: int
    p: int

    def product(self, dtype: torch.dtype | None = None) -> Operator:
        return lambda rows: rows / self.n

    def matrix(self, dtype: torch.dtype | None = None) -> Float[Tensor, "p p"]:
        return torch.eye(self.p, dtype=dtype or torch.float64) / self.n

    def minibatch_product(
        self, rows: Float[Tensor, "k p"], index: Int[Tensor, "k b"]
    ) -> Float[Tensor, "k p"]:
        return rows / self.n

    def sample(self, k: int, generator: torch.Generator) -> Float[Tensor, "k p"]:
        return torch.zeros(k, self.p, dtype=torch.float64)

    def root(self) -> Float[Tensor, "r p"]:
        return torch.zeros(1, self.p, dtype=torch.float64)  # all of it is on the diagonal

    def diagonal(self) -> Float[Tensor, " p"]:
        return torch.full((self.p,), 1 / self.n, dtype=torch.float64)

    def centred(self) -> None:
        return None
