"""The loss of models whose outputs are shares of classes themselves: forests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Tensor
from .linear import LinearLoss, Softmax


@dataclass(frozen=True)
class Brier(LinearLoss):
    """Half the squared distance of shares from the class: 1/2 sum_k (p_k - e_k)^2, for outputs that are probabilities.

    Targets are classes 0..c-1. A likelihood would be infinite where a forest gives a class no share at all.

    >>> Brier().value(torch.tensor([[0.5, 0.5]]), torch.tensor([0]))
    tensor([0.2500])
    """

    classifies = True
    separate_outputs = False
    separable = False
    note = "the loss is half the Brier score, since a forest may give a class a probability of 0"

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        return Softmax().encode(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return self.residual(eta, targets).square().sum(1) / 2

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        found = eta.clone()
        found[torch.arange(len(eta)), targets] -= 1
        return found

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return torch.ones_like(eta), None
