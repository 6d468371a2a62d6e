"""What boosting takes of a loss: the residuals and second derivatives of leaves, and how both move with the scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float

from ..losses import Brier, LinearLoss, Logistic, Softmax, Squared, Tweedie, signs
from ..types import Tensor


class Slopes(NamedTuple):
    """Residual r and second derivative h of each output of b rows, at their scores F (b, c), and their derivatives.

    dr_k / dF_k' = dr_k (delta_kk' - q_k'), and dh_k / dF_k' = dh_k (delta_kk' - q_k'), with q = 0 where it is None.
    """

    r: Float[Tensor, "b c"]
    h: Float[Tensor, "b c"]
    dr: Float[Tensor, "b c"]
    dh: Float[Tensor, "b c"]
    q: Float[Tensor, "b c"] | None

    def pulled(self, k: int, value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """R - V h of output k: what a row adds to the equation sum w (r - V h) = L V of its leaf, whose value V is."""
        return torch.addcmul(self.r[:, k], value, self.h[:, k], value=-1)

    def bent(self, k: int, value: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """E = dr - V dh of output k: `pulled` moves by E (dF_k - q . dF) as the scores move by dF."""
        return torch.addcmul(self.dr[:, k], value, self.dh[:, k], value=-1)


def coupled(
    q: Float[Tensor, "b c"] | None, bents: list[Tensor], values: Float[Tensor, "b c k"]
) -> Float[Tensor, "b c k"]:
    """D x, where the classes of a leaf are solved for together: how r - H V moves with the scores, H = diag(q) - q q'.

    D = diag(E) - E q' - q (E + w q)' is symmetric, so that it is its own transpose. E = -w q (1 + V - q . V) sums to
    -w, which gives w.

    Args:
        q: the probabilities of the classes.
        bents: E of each class (b,), times the weights w of the rows.
        values: x, k of each row.
    """
    assert q is not None
    bent, q = torch.stack(bents, 1)[:, :, None], q[:, :, None]
    weighed = bent - bent.sum(1, keepdim=True) * q
    bends = bent * values
    return bends - weighed * (q * values).sum(1, keepdim=True) - q * bends.sum(1, keepdim=True)


def relative(q: Float[Tensor, "b c"] | None, move: Float[Tensor, "b c k"]) -> Float[Tensor, "b c k"]:
    """DF_k - q . dF: what of a move of the scores the residuals see, in k directions; `q` as `Slopes` have it."""
    return move if q is None else move - (q[:, :, None] * move).sum(1, keepdim=True)


def spread(q: Float[Tensor, "b c"] | None, pull: Float[Tensor, "b c k"]) -> Float[Tensor, "b c k"]:
    """The transpose of `relative`: what pulls at the residuals, as what pulls at the scores."""
    return pull if q is None else pull - q[:, :, None] * pull.sum(1, keepdim=True)


class Quantile(ABC):
    """A quantile of some numbers, as a library takes it."""

    @abstractmethod
    def of_sorted(self, values: np.ndarray, w: np.ndarray) -> float:
        """The quantile of at least one number, ascending, of weights above 0."""

    def of(self, values: Float[Tensor, " n"], w: Float[Tensor, " n"]) -> float:
        """The quantile of numbers of weights w: those of weight 0 do not count, and one must."""
        there = (w > 0).numpy()
        own, weights = values.numpy()[there], w.numpy()[there]
        order = np.argsort(own, kind="stable")
        return self.of_sorted(own[order], weights[order])


class Quantiles(NamedTuple):
    """What the scores start from and what leaves are, where these are quantiles."""

    start: Quantile
    leaf: Quantile


class BoostedLoss(ABC):
    """A loss as a library boosts it: `loss` of the scores, with the second derivative that its leaves divide by.

    That is `factor` times the diagonal of the loss's own Hessian: K / (K - 1) for classes in LightGBM, 2 in XGBoost,
    exp(0.7) for Poisson in both. Where the values of a leaf are solved for `together`, it is all of that Hessian.
    """

    loss: LinearLoss
    factor: float
    together = False
    quantiles: Quantiles | None = None
    weighs = True
    """Whether sample weights have a part in what is boosted."""
    notes: tuple[str, ...] = ()
    """What a user should know of it."""

    @abstractmethod
    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        """Residuals -dl/dF and second derivatives of b rows, with their derivatives.

        Args:
            scores: F of each row and output.
            targets: encoded, as `loss` has them.
        """

    def numbers(self, targets: Tensor, c: int) -> Float[Tensor, "b c"]:
        """What the start is computed from: the targets, or 0 and 1, whether a row is of the class.

        `targets` are encoded, `c` is the number of outputs.
        """
        if not self.loss.classifies:
            return targets.double().view(len(targets), -1)
        if c == 1:
            return (targets.double()[:, None] + 1) / 2
        return torch.nn.functional.one_hot(targets.long(), c).double()

    def middle(self, numbers: Float[Tensor, "n c"], w: Float[Tensor, " n"]) -> Float[Tensor, " c"]:
        """What the start is a function of: the means of the numbers, weighted by w, or their quantiles."""
        if self.quantiles is None:
            return (w @ numbers) / w.sum()
        return torch.tensor([self.quantiles.start.of(column, w) for column in numbers.T], dtype=torch.float64)


@dataclass(frozen=True)
class BoostedLogistic(BoostedLoss):
    """Two classes, one score: r = y - p, h = p (1 - p). Of several, a score for each: one class against the rest.

    >>> BoostedLogistic().slopes(torch.zeros(1, 1), torch.ones(1)).h
    tensor([[0.2500]])
    """

    factor: float = 1.0
    loss = Logistic()

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        sign = signs(targets, scores)
        wrong = (-sign * scores).sigmoid()  # the probability of the other class, without cancellation
        right = 1 - wrong
        h = wrong * right
        return Slopes(sign * wrong, self.factor * h, -h, self.factor * sign * h * (wrong - right), None)


@dataclass(frozen=True)
class BoostedSoftmax(BoostedLoss):
    """Several classes, a score for each: r = e_y - p, h = p (1 - p) times the factor.

    >>> BoostedSoftmax(2.0).slopes(torch.zeros(1, 2), torch.tensor([0])).h
    tensor([[0.5000, 0.5000]])
    """

    factor: float = 1.0
    loss = Softmax()

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        p = scores.softmax(1)
        h = self.factor * p * (1 - p)
        return Slopes(-self.loss.residual(scores, targets), h, -p, self.factor * p * (1 - 2 * p), p)


@dataclass(frozen=True)
class CoupledSoftmax(BoostedLoss):
    """Several classes, whose values V in a leaf are solved for together: r = e_y - p, H = diag(p) - p p'.

    H V = p (V - p . V), so that `Slopes` have h = p, and are asked with V - p . V.

    >>> CoupledSoftmax().slopes(torch.zeros(1, 2), torch.tensor([0])).r
    tensor([[ 0.5000, -0.5000]])
    """

    factor: float = 1.0
    loss = Softmax()
    together = True

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        p = scores.softmax(1)
        return Slopes(-self.loss.residual(scores, targets), p, -p, p, p)


@dataclass(frozen=True)
class BoostedSquared(BoostedLoss):
    """Half the squared error of one or several numbers: r = y - F, h = 1.

    >>> BoostedSquared().slopes(torch.zeros(1, 1), torch.ones(1, 1)).r
    tensor([[1.]])
    """

    factor: float = 1.0
    loss = Squared()

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        y = targets.to(scores).view(len(scores), -1)
        one = torch.ones_like(scores)
        return Slopes(y - scores, self.factor * one, -one, torch.zeros_like(scores), None)


@dataclass(frozen=True)
class BoostedTweedie(BoostedLoss):
    """Half the deviance of a Tweedie distribution with mean exp(F): Poisson (power 1), Gamma (2) and between.

    >>> BoostedTweedie(1.0).slopes(torch.zeros(1, 1), torch.ones(1, 1)).h
    tensor([[1.]])
    """

    power: float | int
    factor: float = 1.0

    @property
    def loss(self) -> Tweedie:  # type: ignore[override]
        """The loss of its power, whose outputs are logarithms of means too."""
        return Tweedie(self.power)

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        y, up, down = targets.to(scores).view(len(scores), -1), 2 - self.power, 1 - self.power
        high, low = (up * scores).exp(), y * (down * scores).exp()
        h = up * high - down * low
        return Slopes(low - high, self.factor * h, -h, self.factor * (up**2 * high - down**2 * low), None)


Objective: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
"""Gradient and second derivative (b,) of the loss of b rows in their scores, from targets (b,) and scores (b,)."""

STEP = 1e-3
"""Of the differences by which an objective of one's own is differentiated, over 1 + |score|."""


@dataclass(frozen=True, eq=False)
class BoostedOwn(BoostedLoss):
    """An objective of the user's own, for one score: r = -gradient, h = second derivative, as it gives them.

    How both move with the score is found by differences of fourth order. A row's numbers depend on that row alone.

    Args:
        function: the objective; targets are numbers, or 0 and 1.
        loss: what is asked about, since the loss itself is not known.
        weighs: whether the function takes sample weights.

    >>> squares = BoostedOwn(lambda y, score: (score - y, np.ones_like(y)), Squared())
    >>> squares.slopes(torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1)).r
    tensor([[1.]], dtype=torch.float64)
    """

    function: Objective
    loss: LinearLoss
    weighs: bool = True
    factor: float = 1.0

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        """That the loss itself is not known."""
        asked = "logistic loss" if self.loss.classifies else "squared error"
        return (
            f"the loss behind an objective of one's own is not known: {asked} is asked about, unless measure= is given",
        )

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        y = self.numbers(targets, 1)[:, 0].numpy()
        step = STEP * (1 + scores[:, :1].abs())

        def at(times: int) -> Tensor:
            found = self.function(y, (scores[:, 0] + times * step[:, 0]).numpy())
            return torch.stack(
                [torch.as_tensor(np.asarray(part, np.float64)).reshape(-1) for part in found], 1
            )

        here = at(0)
        moved = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * step)
        return Slopes(-here[:, :1], here[:, 1:], -moved[:, :1], moved[:, 1:], None)


@dataclass(frozen=True)
class BoostedShares(BoostedLoss):
    """The shares of classes in a forest's leaves, an output for each class: r = e_y - F, h = 1.

    >>> BoostedShares().slopes(torch.tensor([[0.25, 0.75]]), torch.tensor([1])).r
    tensor([[-0.2500,  0.2500]])
    """

    factor: float = 1.0
    loss = Brier()

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        one = torch.ones_like(scores)
        return Slopes(
            -self.loss.residual(scores, targets), self.factor * one, -one, torch.zeros_like(scores), None
        )
