"""Losses of outputs that something known is added to: an offset, the output of a reference class."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Tensor
from .linear import LinearLoss
from .regressions import beside


@dataclass(frozen=True)
class ReferenceSoftmax(LinearLoss):
    """Cross-entropy of several classes of which the first has output 0: multinomial logit with a reference class.

    Outputs (b, c) are those of classes 1..c; targets are classes 0..c. Residual p - e_y and curvature diag(p) - p p^T
    over the classes that have an output.

    >>> ReferenceSoftmax().value(torch.zeros(1, 3), torch.tensor([0])).exp()
    tensor([4.])
    """

    classifies = False  # measures of classes take as many outputs as classes
    separate_outputs = False
    separable = False

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        codes = targets.long()
        bad = ((codes != targets) | (codes < 0) | (codes > outputs)).nonzero()
        if targets.ndim != 1 or len(bad):
            raise ValueError(
                f"targets must be classes 0..{outputs} of shape (n,), got {tuple(targets.shape)}"
            )
        return codes

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return torch.nn.functional.cross_entropy(_with_reference(eta), targets, reduction="none")

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        probability, rows = _with_reference(eta).softmax(1), torch.arange(len(eta))
        probability[rows, targets] = 0
        probability[rows, targets] = -probability.sum(1)
        return probability[:, 1:]

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        probability = _with_reference(eta).softmax(1)[:, 1:]
        return probability, probability


def _with_reference(eta: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(eta[:, :1]), eta], dim=1)


@dataclass(frozen=True)
class WithOffset(LinearLoss):
    """A loss of one output to which a known number is added, example by example: an offset, the log of an exposure.

    Targets (n, 2) are the loss's own and the offset. Outputs are linear predictors *without* it.

    >>> from upweight.losses import Squared
    >>> WithOffset(Squared()).value(torch.tensor([[3.0]]), torch.tensor([[4.0, 1.0]]))
    tensor([0.])
    """

    loss: LinearLoss
    classifies = False
    separate_outputs = True
    separable = False

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether the loss is convex in the outputs."""
        return self.loss.convex

    @property
    def self_concordant(self) -> bool:  # type: ignore[override]
        """Whether the third derivative in the outputs is at most the second."""
        return self.loss.self_concordant

    @property
    def dispersed(self) -> bool:  # type: ignore[override]
        """Whether the variance has a factor that is estimated beside the parameters."""
        return self.loss.dispersed

    @property
    def falling(self) -> bool:  # type: ignore[override]
        """Whether the mean falls as the output grows."""
        return self.loss.falling

    @property
    def repeated(self) -> bool:  # type: ignore[override]
        """Whether the weight of an example says how many rows it stands for."""
        return self.loss.repeated

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know of the outputs."""
        return "; ".join(filter(None, [self.loss.note, "outputs are without the offset"]))

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        if targets.ndim != 2 or targets.shape[1] != 2:
            raise ValueError(f"targets must be (n, 2), target and offset, got {tuple(targets.shape)}")
        own = self.loss.encode(targets[:, 0].double(), outputs).double().view(-1, 1)
        return torch.cat([own, targets[:, 1:].double()], dim=1)

    def means(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, "b c"]:
        """What the outputs and the offset together stand for."""
        whole, own = self._split(eta, targets)
        return whole if self.loss.means is None else self.loss.means(whole, own)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return self.loss.value(*self._split(eta, targets))

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        return self.loss.residual(*self._split(eta, targets))

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return self.loss.curvature(*self._split(eta, targets))

    def expected_curvature(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        """The expectation of the curvature of each example over its target, as Fisher scoring has it."""
        own = self.loss.expected_curvature
        return self.curvature(eta, targets)[0] if own is None else own(*self._split(eta, targets))

    def _split(self, eta: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return eta + beside(targets[:, 1:], eta), targets[:, :1]
