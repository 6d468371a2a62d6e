"""Estimates by maximum likelihood, their covariance, and what is left of both without some rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float

from ..types import Tensor
from .likelihood import RiskShares


@dataclass(frozen=True, eq=False)
class Estimates:
    """The parameters of a model by its whole likelihood at its optimum, and how the removal of rows moves them.

    Args:
        problem: the model at its optimum, a `LikelihoodProblem`.
    """

    problem: Any

    @cached_property
    def covariance(self) -> Float[Tensor, "p p"]:
        """The inverse of the information, which is the Hessian of the total, the penalty included."""
        return torch.linalg.inv(self.problem.hessian.matrix() * self.problem.n)

    @property
    def risk_shares(self) -> RiskShares | None:
        """The terms of the likelihood where rows simply leave them and the penalty stays; None for others."""
        problem = self.problem
        follows = problem.keep == "mean" or not bool((problem.likelihood.spread == 1).all())
        if follows and bool((problem.l2 > 0).any()):
            return None
        return problem.likelihood.risk_shares(problem.theta, problem.weights)

    def without(self, rows: Tensor) -> Estimates:
        """The model trained without those rows. Raises NotConvergedError where there is no optimum."""
        return Estimates(self.problem.without(rows).minimised())

    def stepped(self, rows: Tensor) -> Estimates:
        """The model after one Newton step without those rows; its parameters are NaN where there is none."""
        left = self.problem.without(rows)
        return Estimates(left.at(left.theta + left.newton_step()))

    def first_order(self, direction: Float[Tensor, " p"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """How the removal of each row changes a^T theta and its variance a^T I^-1 a, by derivatives in its weight.

        The variance moves since I loses what the row adds to it, and since it is looked at elsewhere.

        Args:
            direction: a (p,).
        """
        problem, likelihood = self.problem, self.problem.likelihood
        v = self.covariance @ direction
        every = torch.arange(problem.n)
        moves = problem.train_gradients(every) @ self.covariance
        with torch.enable_grad():
            theta, w = problem.theta.clone().requires_grad_(), problem.weights.clone().requires_grad_()
            gradient = torch.autograd.grad(likelihood.total(theta, w), theta, create_graph=True)[0]
            along = torch.autograd.grad(gradient @ v, theta, create_graph=True)[0]
            by_theta, by_weight = torch.autograd.grad(along @ v, (theta, w))
        return moves @ direction, by_weight * problem.weights - moves @ by_theta
