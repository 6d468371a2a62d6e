"""Losses of linear models, with their first two derivatives in the outputs.

A loss sees the outputs eta = X theta (b, c) and the targets. Its Hessian in eta is, example by example,
diag(a) - u u^T; that one form covers softmax (a = u = p) and all element-wise losses (u absent), and it is all that
`LinearProblem` needs for products, explicit matrices and the dual side.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float

from .types import Tensor


class LinearLoss(ABC):
    """A convex loss of linear outputs."""

    @abstractmethod
    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        """Check targets (n,) or (n, c) for a model of `outputs` outputs and return them as the loss wants them."""

    @abstractmethod
    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        """The loss of each example."""

    @abstractmethod
    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        """The first derivative in eta; of the outputs of k parameter vectors at once where eta is (b, c, k)."""

    @abstractmethod
    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        """The second derivative in eta as (a, u): diag(a) - u u^T, or diag(a) where u is None."""


def _classes(targets: Tensor, count: int) -> Tensor:
    if targets.is_floating_point() and not torch.equal(targets, targets.round()):
        raise ValueError(f"class targets must be whole numbers, got {targets.dtype} with fractional values")
    targets = targets.long()
    bad = ((targets < 0) | (targets >= count)).nonzero()
    if len(bad):
        i = int(bad[0, 0])
        raise ValueError(
            f"target {int(targets[i])} of example {i} is out of range: the model has {count} outputs, "
            f"so targets must lie in 0..{count - 1}"
        )
    return targets


def _signs(targets: Tensor, outputs: int) -> Tensor:
    if outputs != 1:
        raise ValueError(f"a binary loss needs one output, the model has {outputs}")
    if targets.ndim != 1:
        raise ValueError(f"binary targets must have shape (n,), got {tuple(targets.shape)}")
    values = set(torch.unique(targets).tolist())
    if not (values <= {0, 1} or values <= {-1, 1}):
        raise ValueError(f"binary targets must be 0/1 or -1/+1, got the values {sorted(values)[:5]}")
    return torch.where(targets > 0, 1.0, -1.0).to(torch.float64)


def _beside(targets: Tensor, eta: Tensor) -> Tensor:
    """Targets with as many dimensions as eta, in its precision."""
    return targets.to(eta).view(*targets.shape, *[1] * (eta.ndim - targets.ndim))


@dataclass(frozen=True)
class Softmax(LinearLoss):
    """Cross-entropy of the softmax: log sum_k exp(eta_k) - eta_y. Targets are classes 0..c-1.

    >>> import torch
    >>> Softmax().value(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([4.])
    """

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        if targets.ndim != 1:
            raise ValueError(f"class targets must have shape (n,), got {tuple(targets.shape)}")
        return _classes(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return torch.nn.functional.cross_entropy(eta, targets, reduction="none")

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        probability = eta.softmax(1)
        probability[torch.arange(len(eta), device=eta.device), targets] -= 1
        return probability

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        probability = eta.softmax(1)
        return probability, probability


@dataclass(frozen=True)
class Logistic(LinearLoss):
    """log(1 + exp(-y eta)), one output. Targets are 0/1 or -1/+1.

    >>> import torch
    >>> Logistic().value(torch.zeros(1, 1), torch.tensor([1.0])).exp()
    tensor([2.])
    """

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        return _signs(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return torch.nn.functional.softplus(-targets.to(eta) * eta[:, 0], threshold=60)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        y = _beside(targets, eta)
        return -y * torch.sigmoid(-y * eta)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return torch.sigmoid(eta) * torch.sigmoid(-eta), None


@dataclass(frozen=True)
class Squared(LinearLoss):
    """1/2 sum_k (eta_k - y_k)^2. Targets are numbers, (n,) or (n, c).

    >>> import torch
    >>> Squared().value(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
    tensor([2.])
    """

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = targets.to(torch.float64).reshape(len(targets), -1)
        if targets.shape[1] != outputs:
            raise ValueError(f"targets have {targets.shape[1]} columns, the model has {outputs} outputs")
        return targets

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return 0.5 * (eta - targets.to(eta)).square().sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        return eta - _beside(targets, eta)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return torch.ones_like(eta), None


@dataclass(frozen=True)
class SmoothHinge(LinearLoss):
    """t log(1 + exp((1 - y eta) / t)), which tends to the hinge max(0, 1 - y eta) as t -> 0 (Sec. 4.3).

    `t` is the smoothing `temperature` > 0. Safe from overflow at any t. Targets are 0/1 or -1/+1.

    >>> import torch
    >>> SmoothHinge(1e-3).value(torch.tensor([[-2.0]]), torch.tensor([1.0]))
    tensor([3.])
    """

    temperature: float

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        return _signs(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        t = self.temperature
        return t * torch.nn.functional.softplus((1 - targets.to(eta) * eta[:, 0]) / t, threshold=60)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        y = _beside(targets, eta)
        return -y * torch.sigmoid((1 - y * eta) / self.temperature)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        gap = (1 - targets.to(eta)[:, None] * eta) / self.temperature
        return torch.sigmoid(gap) * torch.sigmoid(-gap) / self.temperature, None
