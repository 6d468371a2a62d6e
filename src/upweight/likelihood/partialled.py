"""Least squares whose fixed effects are absorbed, with instruments or without: a problem of the coefficients alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .likelihood import Likelihood

INDEPENDENT = 1e-10
"""The share of the largest eigenvalue from which on a combination of effects counts as one of its own."""


@dataclass(frozen=True, eq=False)
class PartialledSquares(Likelihood):
    """Half the weighted squares of y - X beta - effects, least over the effects; or that of two-stage least squares.

    It is divided by the variance of the errors, which is held: the Hessian is the information of the coefficients.
    With instruments it is half the squared length of the residuals' projection on them, e^T W Z (Z^T W Z)^-1 Z^T W e,
    whose minimum is two-stage least squares. Effects are taken out of all columns first (Frisch and Waugh): a row that
    leaves changes the means of its groups, and a row or group that alone has an effect takes it along.
    """

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n 1"]
    codes: Int[Tensor, "n q"]
    """The group of each row in each of q effects."""
    variance: float
    instruments: Float[Tensor, "n z"] | None = None
    """All of them, the regressors that are their own among them; None: least squares."""
    rows_apart = False
    scale_known = False
    squares = True

    @property
    def layout(self) -> Layout:
        return Layout(("weight",), ((1, self.X.shape[1]),))

    def total(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        X, y, Z = self._within(weights)
        residual = y - X @ theta
        if Z is None:
            return weights @ residual.square() / (2 * self.variance)
        pulled = Z.T @ (weights * residual)
        return pulled @ torch.linalg.solve(Z.T @ (weights[:, None] * Z), pulled) / (2 * self.variance)

    def derivatives(
        self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        X, y, Z = self._within(weights)
        weighted = weights[:, None] * X
        if Z is not None:  # the fitted regressors of the first stage
            pulled = Z.T @ weighted
            weighted = weights[:, None] * (Z @ torch.linalg.solve(Z.T @ (weights[:, None] * Z), pulled))
        return weighted.T @ (X @ theta - y) / self.variance, weighted.T @ X / self.variance

    def _within(self, weights: Float[Tensor, " n"]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Regressors, targets and instruments without effects.

        These are constant here: gradients of the total are the same, and so are their derivatives in the weights, since
        the weighted sums of all of them over each group are 0.
        """
        columns = [self.X, self.y] if self.instruments is None else [self.X, self.y, self.instruments]
        within = without_effects(torch.cat(columns, 1), self.codes, weights.detach())
        k = self.X.shape[1]
        return within[:, :k], within[:, k], None if self.instruments is None else within[:, k + 1 :]

    def risk_shares(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> None:
        return None

    def losses(self, theta: Tensor, X: Float[Tensor, "b d"], y: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        if self.codes.shape[1]:
            raise ValueError(
                "a row with absorbed effects has no loss of its own, its effect is estimated with it: ask with "
                "measure=uw.measures.prediction (without the effect), uw.OfParameters or uw.Overall"
            )
        return (y[:, 0] - X @ theta).square() / 2

    def outputs(self, theta: Tensor, X: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        return (X @ theta)[:, None]

    def take(self, index: Int[Tensor, " b"]) -> PartialledSquares:
        instruments = None if self.instruments is None else self.instruments[index]
        return PartialledSquares(self.X[index], self.y[index], self.codes[index], self.variance, instruments)

    @property
    def spread(self) -> Float[Tensor, " p"]:
        return torch.ones(self.layout.size, dtype=torch.float64)


def without_effects(
    columns: Float[Tensor, "n k"], codes: Int[Tensor, "n q"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "n k"]:
    """What weighted least squares on the effects alone leaves of columns, exactly: no iteration.

    The effect with the most groups goes by means, the others by a system of the size of their groups.

    Args:
        columns: what they are taken out of.
        codes: the group of each row in each of q effects.
        weights: of the rows.
    """
    if not codes.shape[1]:
        return columns
    dense = [code.unique(return_inverse=True)[1] for code in codes.T]
    dense.sort(key=lambda code: -int(code.max()))
    most, others = dense[0], dense[1:]
    if others:
        dummies = torch.cat([torch.nn.functional.one_hot(code) for code in others], 1).double()
        columns, dummies = _centred(torch.cat([columns, dummies], 1), most, weights).split(
            [columns.shape[1], dummies.shape[1]], dim=1
        )
        weighted = weights[:, None] * dummies
        inverse = torch.linalg.pinv(weighted.T @ dummies, hermitian=True, rtol=INDEPENDENT)
        return columns - dummies @ (inverse @ (weighted.T @ columns))
    return _centred(columns, most, weights)


def _centred(
    columns: Float[Tensor, "n k"], code: Int[Tensor, " n"], weights: Float[Tensor, " n"]
) -> Float[Tensor, "n k"]:
    """Columns less their weighted means in each group; of a group without weight as they are."""
    count = int(code.max()) + 1
    sums = columns.new_zeros(count, columns.shape[1]).index_add(0, code, weights[:, None] * columns)
    whole = weights.new_zeros(count).index_add(0, code, weights)
    return columns - (sums / torch.where(whole > 0, whole, 1.0)[:, None])[code]
