"""The negative binomial model of counts, whose dispersion alpha is a parameter beside the coefficients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .likelihood import Likelihood, differentiated


@dataclass(frozen=True, eq=False)
class NegativeBinomial(Likelihood):
    """Counts with mean mu = exp(x beta + offset) and variance mu + alpha mu^power: NB2, or NB1 with power 1.

    Theta is beta and then alpha > 0 itself. `y` (n, 2) has counts and offsets.
    """

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n 2"]
    power: int = 2
    rows_apart = True
    scale_known = True

    @property
    def layout(self) -> Layout:
        return Layout(("weight", "alpha"), ((1, self.X.shape[1]), (1,)))

    def total(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        return weights @ self.losses(theta, self.X, self.y)

    def derivatives(
        self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        return differentiated(lambda at: self.total(at, weights), theta)

    def risk_shares(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> None:
        return None

    def losses(self, theta: Tensor, X: Float[Tensor, "b d"], y: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        mu, alpha, count = (X @ theta[:-1] + y[:, 1]).exp(), theta[-1], y[:, 0]
        size = 1 / alpha if self.power == 2 else mu / alpha
        log = torch.lgamma(count + size) - torch.lgamma(size) - torch.lgamma(count + 1)
        log = log - size * torch.log1p(mu / size) + torch.xlogy(count, mu / (mu + size))
        return -log

    def outputs(self, theta: Tensor, X: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        return (X @ theta[:-1])[:, None]

    def take(self, index: Int[Tensor, " b"]) -> NegativeBinomial:
        return NegativeBinomial(self.X[index], self.y[index], self.power)

    @property
    def spread(self) -> Float[Tensor, " p"]:
        return torch.ones(self.layout.size, dtype=torch.float64)
