"""The binomial loss of proportions, with any link from outputs to chances."""

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


class Chance(NamedTuple):
    """The chance mu of a success as a function of the output, in forms that keep their digits at either end."""

    log_mean: Tensor
    log_rest: Tensor
    """log(1 - mu)."""
    up: Tensor
    """The derivative of log(mu)."""
    down: Tensor
    """Minus the derivative of log(1 - mu)."""
    bend: Tensor
    """The second derivative of mu over its first."""


def _logit(eta: Tensor) -> Chance:
    mu, rest = torch.sigmoid(eta), torch.sigmoid(-eta)
    soft = torch.nn.functional.softplus
    return Chance(-soft(-eta, threshold=60), -soft(eta, threshold=60), rest, mu, rest - mu)


def _probit(eta: Tensor) -> Chance:
    up, down = torch.special.log_ndtr(eta), torch.special.log_ndtr(-eta)
    density = -0.5 * eta.square() - 0.5 * math.log(2 * math.pi)
    return Chance(up, down, (density - up).exp(), (density - down).exp(), -eta)


def _cauchy(eta: Tensor) -> Chance:
    one = torch.ones_like(eta)
    mu, rest = torch.atan2(one, -eta) / math.pi, torch.atan2(one, eta) / math.pi
    slope = 1 / (math.pi * (1 + eta.square()))
    return Chance(mu.log(), rest.log(), slope / mu, slope / rest, -2 * eta / (1 + eta.square()))


def _cloglog(eta: Tensor) -> Chance:
    z = eta.exp()
    return Chance(torch.log(-torch.expm1(-z)), -z, z / torch.expm1(z), z, 1 - z)


def _loglog(eta: Tensor) -> Chance:
    z = (-eta).exp()
    return Chance(-z, torch.log(-torch.expm1(-z)), z, z / torch.expm1(z), z - 1)


def _log(eta: Tensor) -> Chance:
    one = torch.ones_like(eta)
    return Chance(eta, torch.log(-torch.expm1(eta)), one, 1 / torch.expm1(-eta), one)


def _identity(eta: Tensor) -> Chance:
    return Chance(eta.log(), torch.log1p(-eta), 1 / eta, 1 / (1 - eta), torch.zeros_like(eta))


CHANCES: dict[str, Callable[[Tensor], Chance]] = {
    "logit": _logit,
    "probit": _probit,
    "cauchy": _cauchy,
    "cloglog": _cloglog,
    "loglog": _loglog,
    "log": _log,
    "identity": _identity,
}
"""Links of proportions by their names."""


@dataclass(frozen=True)
class Proportion(LinearLoss):
    """Half the deviance of a binomial distribution with the chance that `link` gives to the output.

    Targets are proportions in 0..1 (n,), also 0 and 1 alone; the number of trials is a weight. Outputs are linear
    predictors. Links are "logit", "probit", "cauchy", "cloglog", "loglog", "log" and "identity".

    >>> Proportion("probit").value(torch.tensor([[0.0]]), torch.tensor([[1.0]])).exp()
    tensor([2.])
    """

    link: str
    classifies = False
    separate_outputs = True
    separable = False

    def __post_init__(self) -> None:
        if self.link not in CHANCES:
            raise ValueError(f"link must be one of {', '.join(CHANCES)}, got {self.link!r}")

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether the loss is convex in the outputs."""
        return self.link != "cauchy"

    @property
    def self_concordant(self) -> bool:  # type: ignore[override]
        """Whether the third derivative in the outputs is at most the second."""
        return self.link == "logit"

    @property
    def note(self) -> str:  # type: ignore[override]
        """What a user should know of the outputs."""
        return f"outputs are linear predictors: the {self.link} of chances"

    def encode(self, targets: Tensor, outputs: int) -> Tensor:
        targets = numbers(targets, outputs)
        bad = (targets < 0) | (targets > 1)
        if bool(bad.any()):
            first = int(bad.any(1).nonzero()[0, 0])
            raise ValueError(f"targets must lie in 0..1, got {targets[first].tolist()} in example {first}")
        return targets

    def means(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, "b c"]:
        """The chances that the outputs stand for."""
        return CHANCES[self.link](eta).log_mean.exp()

    def value(self, eta: Float[Tensor, "b c"], targets: Tensor) -> Float[Tensor, " b"]:
        y, at = beside(targets, eta), CHANCES[self.link](eta)
        own = torch.xlogy(y, y) + torch.xlogy(1 - y, 1 - y)
        return (own - _times(y, at.log_mean) - _times(1 - y, at.log_rest)).sum(1)

    def residual(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        y, at = beside(targets, eta), CHANCES[self.link](eta)
        return _times(1 - y, at.down) - _times(y, at.up)

    def curvature(
        self, eta: Float[Tensor, "b c"], targets: Tensor
    ) -> tuple[Float[Tensor, "b c"], Float[Tensor, "b c"] | None]:
        y, at = beside(targets, eta), CHANCES[self.link](eta)
        return _times(1 - y, at.down * (at.bend + at.down)) - _times(y, at.up * (at.bend - at.up)), None

    def expected_curvature(self, eta: Float[Tensor, "b c *k"], targets: Tensor) -> Float[Tensor, "b c *k"]:
        """The expectation of the curvature of each example over its target, as Fisher scoring has it."""
        at = CHANCES[self.link](eta)
        return at.up * at.down


def _times(share: Tensor, number: Tensor) -> Tensor:
    """A product that is 0 where the share is, also of an infinite number."""
    return torch.where(share == 0, 0.0, share * number)
