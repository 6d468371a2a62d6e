"""Losses of regressions besides the squared one: of the residual eta - y, and of a mean exp(eta)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch.nn import functional as F

from ..types import Tensor
from .linear import LinearLoss

SCALES = 100
"""Times that a scale is fitted to the residuals within it, until these stay the same ones."""


def numbers(targets: Tensor, outputs: int) -> Tensor:
    """Targets (n, c) as numbers; raises ValueError where they have another number of columns than the model outputs."""
    targets = targets.to(torch.float64).reshape(len(targets), -1)
    if targets.shape[1] != outputs:
        raise ValueError(f"targets have {targets.shape[1]} columns, the model has {outputs} outputs")
    return targets


def beside(targets: Tensor, eta: Tensor) -> Tensor:
    """Targets with as many dimensions as eta, in its precision."""
    return targets.to(eta).view(*targets.shape, *[1] * (eta.ndim - targets.ndim))


class ResidualLoss(LinearLoss):
    """A function of the residuals e_k = eta_k - y_k, summed over the outputs. Targets are numbers, (n,) or (n, c)."""

    classifies = False
    separate_outputs = True
    separable = False

    @abstractmethod
    def of_residual(self, residual: Tensor) -> Tensor:
        """The loss as a function of the residual, elementwise: convex, >= 0."""

    @abstractmethod
    def first_derivative(self, residual: Tensor) -> Tensor:
        """The derivative of `of_residual`, elementwise."""

    @abstractmethod
    def second_derivative(self, residual: Tensor) -> Tensor:
        """The second derivative of `of_residual`, elementwise; >= 0."""

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        return numbers(targets, outputs)

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return self.of_residual(eta - beside(targets, eta)).sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        return self.first_derivative(eta - beside(targets, eta))

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        return self.second_derivative(eta - beside(targets, eta)), None


@dataclass(frozen=True)
class Huber(ResidualLoss):
    """1/2 e^2 of residuals e up to `delta` > 0, in the unit of the targets, and delta (|e| - delta / 2) beyond.

    With an `epsilon` delta is epsilon times a scale sigma that training fits beside the coefficients: the least of the
    sum of w_i (sigma + sigma h(e_i / sigma)), h(u) = u^2 up to epsilon and 2 epsilon |u| - epsilon^2 beyond, as
    HuberRegressor has it. The penalty then goes with sigma.

    >>> import torch
    >>> Huber(1.0).value(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor([2.5000])
    """

    delta: float | int
    epsilon: float | None = None

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise ValueError(f"delta must be > 0, got {self.delta}")

    @property
    def fits_scale(self) -> bool:  # type: ignore[override]
        """Whether delta is epsilon times a scale that is fitted."""
        return self.epsilon is not None

    def scales_without(
        self, residual: Float[Tensor, "n g"], weights: Float[Tensor, " n"], sets: Sequence[Tensor]
    ) -> Float[Tensor, " g"]:
        """The scale that fits each of g columns of residuals, over the scale that there is.

        Args:
            residual: the residuals of n examples.
            weights: what they weigh (n,).
            sets: the examples that do not count in each column.
        """
        epsilon = float(self.epsilon or 1.0)
        square, w = (residual * (epsilon / self.delta)).square(), weights[:, None].repeat(1, len(sets))
        for column, rows in zip(w.T, sets, strict=True):
            column[rows] = 0.0
        found, total = residual.new_ones(len(sets)), w.sum(0)
        for _ in range(SCALES):
            inside = square <= (epsilon * found).square()
            left = total - epsilon**2 * (w * ~inside).sum(0)
            moved = torch.where(left > 0, ((w * square * inside).sum(0) / left).sqrt(), 2 * found)
            if bool((moved == found).all()):
                break
            found = moved
        return found

    def residual_at(
        self, ratio: Float[Tensor, " g"], eta: Float[Tensor, "b c g"], targets: Tensor
    ) -> Float[Tensor, "b c g"]:
        """`residual` where the scale is multiplied with a number for each of g stacks of outputs.

        Args:
            ratio: the numbers.
            eta: the outputs.
            targets: of b examples.
        """
        delta, residual = self.delta * ratio, eta - beside(targets, eta)
        return torch.minimum(torch.maximum(residual, -delta), delta)

    def of_residual(self, residual: Tensor) -> Tensor:
        inside = residual.clamp(-self.delta, self.delta)
        return inside * (residual - 0.5 * inside)

    def first_derivative(self, residual: Tensor) -> Tensor:
        return residual.clamp(-self.delta, self.delta)

    def second_derivative(self, residual: Tensor) -> Tensor:
        return (residual.abs() <= self.delta).to(residual)


@dataclass(frozen=True)
class SquaredEpsilonInsensitive(ResidualLoss):
    """max(0, |e| - epsilon)^2 of the residual e; epsilon >= 0, in the unit of the targets.

    Its curvature is 2 outside the tube of half-width epsilon and 0 within.

    >>> import torch
    >>> SquaredEpsilonInsensitive(1.0).value(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor([4.])
    """

    epsilon: float | int

    def of_residual(self, residual: Tensor) -> Tensor:
        return (residual.abs() - self.epsilon).clamp(min=0).square()

    def first_derivative(self, residual: Tensor) -> Tensor:
        return 2 * residual.sign() * (residual.abs() - self.epsilon).clamp(min=0)

    def second_derivative(self, residual: Tensor) -> Tensor:
        return 2 * (residual.abs() > self.epsilon).to(residual)


class SmoothedResidualLoss(ResidualLoss):
    """A loss with corners that are smoothed by softplus functions of a temperature t > 0, in the targets' unit."""

    temperature: float
    stands_in = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be > 0, got {self.temperature}")


@dataclass(frozen=True)
class SmoothEpsilonInsensitive(SmoothedResidualLoss):
    """max(0, |e| - epsilon) of the residual e with both corners smoothed: a softplus of temperature t on either side.

    It tends to the loss of support vector regression as t -> 0; `temperature` and `epsilon` are in the unit of the
    targets, t > 0.

    >>> import torch
    >>> SmoothEpsilonInsensitive(1.0, 1e-3).value(torch.tensor([[3.0]]), torch.tensor([[0.0]]))
    tensor([2.])
    """

    epsilon: float | int
    temperature: float

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know where an estimator's own loss was replaced by this one."""
        return f"the corners of the epsilon-insensitive loss are smoothed with temperature {self.temperature:.3g}"

    def of_residual(self, residual: Tensor) -> Tensor:
        t, e = self.temperature, self.epsilon
        return t * (
            F.softplus((residual - e) / t, threshold=60) + F.softplus((-residual - e) / t, threshold=60)
        )

    def first_derivative(self, residual: Tensor) -> Tensor:
        t, e = self.temperature, self.epsilon
        return torch.sigmoid((residual - e) / t) - torch.sigmoid((-residual - e) / t)

    def second_derivative(self, residual: Tensor) -> Tensor:
        t, e = self.temperature, self.epsilon
        above, below = (residual - e) / t, (-residual - e) / t
        return (
            torch.sigmoid(above) * torch.sigmoid(-above) + torch.sigmoid(below) * torch.sigmoid(-below)
        ) / t


@dataclass(frozen=True)
class SmoothPinball(SmoothedResidualLoss):
    """The loss of the `quantile` q, q max(0, y - eta) + (1 - q) max(0, eta - y), with its corner smoothed.

    With e = eta - y it is t log(1 + exp(e / t)) - q e, which tends to it as the `temperature` t -> 0, in the unit of
    the targets.

    >>> import torch
    >>> SmoothPinball(0.9, 1e-3).value(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor([1.8000])
    """

    quantile: float
    temperature: float

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know where an estimator's own loss was replaced by this one."""
        return f"the corner of the quantile's loss is smoothed with temperature {self.temperature:.3g}"

    def of_residual(self, residual: Tensor) -> Tensor:
        t = self.temperature
        return t * F.softplus(residual / t, threshold=60) - self.quantile * residual

    def first_derivative(self, residual: Tensor) -> Tensor:
        return torch.sigmoid(residual / self.temperature) - self.quantile

    def second_derivative(self, residual: Tensor) -> Tensor:
        gap = residual / self.temperature
        return torch.sigmoid(gap) * torch.sigmoid(-gap) / self.temperature


@dataclass(frozen=True)
class Tweedie(LinearLoss):
    """Half the deviance of a Tweedie distribution of `power` p in [1, 2] with mean exp(eta): 1 is Poisson, 2 Gamma.

    Between them y^(2-p) / ((1-p)(2-p)) - y mu^(1-p) / (1-p) + mu^(2-p) / (2-p) with mu = exp(eta); Poisson: mu - y - y
    log(mu / y), Gamma: y / mu - 1 - log(y / mu). 0 where mu = y. Targets are counts or amounts, >= 0, of Gamma > 0; the
    outputs eta are logarithms of means. With the log link the loss is convex for these powers and no others.

    >>> import torch
    >>> Tweedie(1).value(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    tensor([1.])
    """

    power: float | int
    classifies = False
    separate_outputs = True
    separable = False
    self_concordant = True  # (p - 1) y e^((1-p) eta) + (2 - p) e^((2-p) eta), rates of at most 1
    logarithms = True
    note = "the model's outputs, and so its predictions here, are logarithms of means"

    def __post_init__(self) -> None:
        if not 1 <= self.power <= 2:
            raise ValueError(
                f"power must lie in 1..2, where the loss is convex in log(mean), got {self.power}"
            )

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = numbers(targets, outputs)
        bad = (targets < 0) if self.power < 2 else (targets <= 0)
        if bool(bad.any()):
            first = int(bad.any(1).nonzero()[0, 0])
            least = ">= 0" if self.power < 2 else "> 0"
            raise ValueError(
                f"targets must be {least}, got {float(targets[first].min()):g} in example {first}"
            )
        return targets

    def means(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, "b c"]:
        """The means that the outputs are logarithms of."""
        return eta.exp()

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        y, p = beside(targets, eta), self.power
        if p == 1:
            own = eta.exp() - y * eta - y + torch.xlogy(y, y)
        elif p == 2:
            own = eta + y * (-eta).exp() - 1 - y.log()
        else:
            own = y ** (2 - p) / ((1 - p) * (2 - p)) - y * ((1 - p) * eta).exp() / (1 - p)
            own = own + ((2 - p) * eta).exp() / (2 - p)
        return own.sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        y, p = beside(targets, eta), self.power
        return ((2 - p) * eta).exp() - y * ((1 - p) * eta).exp()

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        y, p = beside(targets, eta), self.power
        return (2 - p) * ((2 - p) * eta).exp() + (p - 1) * y * ((1 - p) * eta).exp(), None
