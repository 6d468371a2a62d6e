"""The loss of models whose examples have several labels at once, each yes or no: one binary loss per output."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Tensor
from .linear import LinearLoss, MarginLoss


@dataclass(frozen=True)
class SeveralLabels(LinearLoss):
    """The sum of a binary loss over outputs that each have a label of their own, as several targets have.

    Targets are 0/1 or -1/+1, (n, c): c independent binary models of the same examples. No output stands for a class of
    its own, so that nothing is decided between them.

    >>> from upweight import Logistic
    >>> SeveralLabels(Logistic()).value(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]])).exp()
    tensor([4.])
    """

    binary: MarginLoss
    classifies = False
    separate_outputs = True

    @property
    def stands_in(self) -> bool:  # type: ignore[override]
        """Whether the binary loss is a smooth stand-in for one with a kink."""
        return self.binary.stands_in

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know of the binary loss."""
        return self.binary.note

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = targets.reshape(len(targets), -1)
        if targets.shape[1] != outputs:
            raise ValueError(f"targets have {targets.shape[1]} columns, the model has {outputs} outputs")
        return torch.stack([self.binary.encode(column, 1) for column in targets.T], dim=1)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return self.binary.value(eta, targets)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        return self.binary.residual(eta, targets)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return self.binary.curvature(eta, targets)
