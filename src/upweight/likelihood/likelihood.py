"""What a likelihood says of itself: minus its logarithm as a function of parameters and of the weights of all rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor


def differentiated(
    total: Callable[[Tensor], Tensor], theta: Float[Tensor, " p"]
) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
    """The gradient and the Hessian of a function of the parameters at theta, by a pass for each of them."""
    at = theta.detach().clone().requires_grad_()
    gradient = torch.autograd.grad(total(at), at, create_graph=True)[0]
    H = torch.stack([torch.autograd.grad(one, at, retain_graph=True)[0] for one in gradient])
    return gradient.detach(), (H + H.T) / 2


class RiskShares(NamedTuple):
    """A likelihood whose terms are w log sum_j r_j - w eta, each of the row of an event and of the rows at risk then.

    `share` (e, n) are r_j over their sum, 0 for rows that are not at risk. A row that leaves takes its own term along
    and leaves the sums of the others.
    """

    share: Float[Tensor, "e n"]
    rows: Int[Tensor, " e"]
    weights: Float[Tensor, " e"]
    strata: Float[Tensor, " n"]


class Likelihood(ABC):
    """Minus the log-likelihood of n rows, differentiable in the parameters and in the weight of each row.

    Rows need not be independent: a row may take part in the terms of others, as the risk sets of Cox's model have it.
    Its gradient is then the derivative of the gradient of all in its weight.
    """

    X: Float[Tensor, "n d"]
    """The columns that outputs are linear in."""
    y: Float[Tensor, "n _"]
    """What else the likelihood knows of each row: counts, or times and events."""
    rows_apart: bool
    """Whether it is a sum over rows, so that a row that leaves takes its own term along and nothing else."""
    scale_known: bool
    """Whether its inverse Hessian is the covariance of the estimates, also without some rows: no variance is held."""

    squares: bool = False
    """Whether it is least squares, or two-stage least squares, by its columns."""

    @property
    @abstractmethod
    def layout(self) -> Layout:
        """The names and shapes of the parameters in the order of theta."""

    @abstractmethod
    def total(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Minus the log-likelihood of all rows, of torch operations, homogeneous of degree 1 in the weights."""

    @abstractmethod
    def derivatives(
        self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        """The gradient and the Hessian of `total` in the parameters, the Hessian symmetric."""

    @abstractmethod
    def risk_shares(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> RiskShares | None:
        """The terms at theta, where they are those of risk sets that rows simply leave; None for others."""

    @abstractmethod
    def losses(self, theta: Tensor, X: Float[Tensor, "b d"], y: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        """The loss of each of some rows, differentiable.

        Args:
            theta: the parameters (p,).
            X: the columns of b rows.
            y: what else is known of them.

        Raises:
            ValueError: where a row has no loss of its own, with what to ask about.
        """

    @abstractmethod
    def outputs(self, theta: Tensor, X: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        """The linear predictor of each of some rows, at theta (p,)."""

    @abstractmethod
    def take(self, index: Int[Tensor, " b"]) -> Likelihood:
        """The likelihood of some of the rows."""

    @property
    @abstractmethod
    def spread(self) -> Float[Tensor, " p"]:
        """What the penalty on each parameter is measured in: it follows the rows that are left, or is 1."""
