"""Losses of generalised linear models: half the deviance of a family at the mean that a link gives."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..types import Tensor
from .linear import LinearLoss
from .regressions import beside, numbers

CONVEX = frozenset(
    {
        ("gaussian", "identity"),
        ("poisson", "log"),
        ("poisson", "identity"),
        ("poisson", "sqrt"),
        ("gamma", "log"),
        ("gamma", "inverse"),
        ("inverse gaussian", "inverse"),
        ("inverse gaussian", "inverse squared"),
        ("negative binomial", "log"),
        ("negative binomial", "canonical"),
    }
)
"""Families and links whose loss is known to be convex in the outputs; any other is treated as if it were not."""
POWERS = {"inverse": -1.0, "inverse squared": -2.0, "sqrt": 0.5, "identity": 1.0}
"""Links eta = mu^power by their names."""


class Mean(NamedTuple):
    """The mean of a distribution as a function of the output eta: value, first derivative, and second over first."""

    value: Tensor
    slope: Tensor
    bend: Tensor


@dataclass(frozen=True)
class GeneralisedLinear(LinearLoss):
    """Half the deviance of `family` with the mean that `link` gives to the output: a generalised linear model.

    Weights and dispersion are no part of it. Where family and link are not a convex pair, single examples may have
    negative curvature. Targets are numbers (n,); outputs are linear predictors.

    Args:
        family: "gaussian", "poisson", "gamma", "inverse gaussian", "negative binomial" or "tweedie".
        link: "identity", "log", "inverse", "inverse squared", "sqrt", "canonical" (of the negative binomial) or
            "power".
        shape: alpha of the negative binomial, the power of the variance of Tweedie.
        power: of the link "power", eta = mu^power.
        repeated: whether the weight of an example says how many rows it stands for.

    >>> GeneralisedLinear("gamma", "inverse").value(torch.tensor([[0.5]]), torch.tensor([[2.0]]))
    tensor([0.])
    """

    family: str
    link: str
    shape: float = 1.0
    power: float = 1.0
    repeated: bool = False
    classifies = False
    separate_outputs = True
    separable = False

    def __post_init__(self) -> None:
        if self.family not in FAMILIES or self.link not in {"log", "canonical", "power"} | set(POWERS):
            raise ValueError(f"family {self.family!r} with link {self.link!r} is not known")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether the loss is convex in the outputs."""
        log_of_tweedie = self.family == "tweedie" and self.link == "log" and 1 <= self.shape <= 2
        return log_of_tweedie or (self.family, self.link) in CONVEX

    @property
    def self_concordant(self) -> bool:  # type: ignore[override]
        """Whether the third derivative in the outputs is at most the second: log links (docs/certificates.md, 18)."""
        tweedie = self.family == "tweedie" and 1 <= self.shape <= 2
        return self.link == "log" and (tweedie or self.family in ("poisson", "gamma", "negative binomial"))

    @property
    def dispersed(self) -> bool:  # type: ignore[override]
        """Whether the variance has a factor that is estimated beside the parameters."""
        return self.family not in ("poisson", "negative binomial")

    @property
    def falling(self) -> bool:  # type: ignore[override]
        """Whether the mean falls as the output grows."""
        return POWERS.get(self.link, self.power if self.link == "power" else 1.0) < 0

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know of the outputs."""
        return "" if self.link == "identity" else f"outputs are linear predictors: the {self.link} of means"

    def means(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, "b c"]:
        """The means that the outputs stand for."""
        return self.mean(eta).value

    def mean(self, eta: Tensor) -> Mean:
        """The mean and its derivatives in the outputs, elementwise."""
        if self.link == "log":
            mu = eta.exp()
            return Mean(mu, mu, torch.ones_like(eta))
        if self.link == "canonical":
            q = (-eta).exp()
            return Mean(1 / (self.shape * (q - 1)), q / (self.shape * (q - 1).square()), (q + 1) / (q - 1))
        power = 1 / POWERS.get(self.link, self.power)
        if power == 1:
            return Mean(eta, torch.ones_like(eta), torch.zeros_like(eta))
        return Mean(eta**power, power * eta ** (power - 1), (power - 1) / eta)

    def variance(self, mu: Tensor) -> tuple[Tensor, Tensor]:
        """The variance of a target as a function of its mean, and its derivative; without dispersion and weight."""
        return FAMILIES[self.family].variance(mu, self.shape)

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = numbers(targets, outputs)
        least = FAMILIES[self.family].least
        bad = ~(targets > 0) if least == "> 0" else targets < (0 if least else -math.inf)
        if bool(bad.any()):
            first = int(bad.any(1).nonzero()[0, 0])
            raise ValueError(
                f"targets must be {least}, got {float(targets[first].min()):g} in example {first}"
            )
        return targets

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        return (
            FAMILIES[self.family].half_deviance(beside(targets, eta), self.mean(eta).value, self.shape).sum(1)
        )

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        mu, slope, _ = self.mean(eta)
        return (mu - beside(targets, eta)) * slope / self.variance(mu)[0]

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        mu, slope, bend = self.mean(eta)
        v, dv = self.variance(mu)
        expected = slope.square() / v
        return expected + (mu - beside(targets, eta)) * (slope * bend / v - expected * dv / v), None

    def expected_curvature(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        """The expectation of the curvature of each example over its target, as Fisher scoring has it."""
        mu, slope, _ = self.mean(eta)
        return slope.square() / self.variance(mu)[0]


@dataclass(frozen=True)
class Family:
    """A family of distributions: its variance and half its unit deviance as functions of mean and shape."""

    variance: Callable[[Tensor, float], tuple[Tensor, Tensor]]
    half_deviance: Callable[[Tensor, Tensor, float], Tensor]
    least: str = ""
    """Which targets there are, "> 0" or ">= 0", or any."""


def _tweedie(y: Tensor, mu: Tensor, p: float) -> Tensor:
    if p in (1, 2):
        return FAMILIES["poisson" if p == 1 else "gamma"].half_deviance(y, mu, p)
    own = torch.where(y > 0, y.clamp(min=1e-300) ** (2 - p), 0.0) / ((1 - p) * (2 - p))
    return own - y * mu ** (1 - p) / (1 - p) + mu ** (2 - p) / (2 - p)


def _negative_binomial(y: Tensor, mu: Tensor, alpha: float) -> Tensor:
    return (
        torch.xlogy(y, y) - torch.xlogy(y, mu) - (y + 1 / alpha) * ((1 + alpha * y) / (1 + alpha * mu)).log()
    )


FAMILIES = {
    "gaussian": Family(
        lambda mu, _: (torch.ones_like(mu), torch.zeros_like(mu)), lambda y, mu, _: 0.5 * (y - mu).square()
    ),
    "poisson": Family(
        lambda mu, _: (mu, torch.ones_like(mu)),
        lambda y, mu, _: mu - y + torch.xlogy(y, y) - torch.xlogy(y, mu),
        ">= 0",
    ),
    "gamma": Family(
        lambda mu, _: (mu.square(), 2 * mu), lambda y, mu, _: y / mu - 1 - y.log() + mu.log(), "> 0"
    ),
    "inverse gaussian": Family(
        lambda mu, _: (mu**3, 3 * mu.square()),
        lambda y, mu, _: 0.5 * (y - mu).square() / (mu.square() * y),
        "> 0",
    ),
    "negative binomial": Family(
        lambda mu, alpha: (mu + alpha * mu.square(), 1 + 2 * alpha * mu), _negative_binomial, ">= 0"
    ),
    "tweedie": Family(lambda mu, p: (mu**p, p * mu ** (p - 1)), _tweedie, ">= 0"),
}
"""Families by their names."""
