"""Leaves that are quantiles of what is left of their rows' targets: absolute and quantile losses, which have a kink."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from ..losses.linear import LinearLoss
from ..losses.regressions import ResidualLoss
from ..types import Tensor
from .losses import BoostedLoss, Quantile, Quantiles, Slopes

KINKED = (
    "the leaves of this model are quantiles of their rows, which jump as weights move: they have no derivative; ask "
    "what it does to remove a group of rows, influence.of_removal (on the command line: remove --where): the quantiles "
    "are computed anew"
)


@dataclass(frozen=True)
class Interpolated(Quantile):
    """Between two numbers, as numpy.quantile has it: all weigh the same.

    >>> Interpolated(0.5).of_sorted(np.array([1.0, 2.0]), np.ones(2))
    1.5
    """

    level: float
    single: bool = False
    """Whether it is rounded to float32."""
    method: Literal["linear", "weibull"] = "linear"
    """The `method` of numpy.quantile: where among n numbers the level is, at (n - 1) of it or at n + 1 of it."""

    def of_sorted(self, values: np.ndarray, w: np.ndarray) -> float:
        if (w != w[0]).any():
            raise ValueError(
                "a model that was trained without weights has no leaf values for rows of different weights: remove "
                "rows, weight 0, or train with sample_weight"
            )
        found = np.quantile(values, self.level, method=self.method)
        return float(np.float32(found)) if self.single else float(found)


@dataclass(frozen=True)
class FirstToReach(Quantile):
    """The first number at which the weights so far reach the level's share of all.

    >>> FirstToReach(0.5).of_sorted(np.array([1.0, 2.0]), np.ones(2))
    1.0
    """

    level: float

    def of_sorted(self, values: np.ndarray, w: np.ndarray) -> float:
        total = np.cumsum(w)
        return float(values[min(np.searchsorted(total, self.level * total[-1]), len(values) - 1)])


@dataclass(frozen=True)
class ByUpperWeight(Quantile):
    """LightGBM's: between two numbers where the upper one weighs at least 1, else the lower one of the two.

    >>> values, w = np.array([1.0, 2.0, 3.0]), np.ones(3)
    >>> ByUpperWeight(0.5).of_sorted(values, 2 * w), ByUpperWeight(0.5).of_sorted(values, w / 2)
    (1.5, 1.0)
    """

    level: float
    single: bool = False
    """Whether it is rounded to float32."""

    def of_sorted(self, values: np.ndarray, w: np.ndarray) -> float:
        total = np.cumsum(w)
        goal = self.level * total[-1]
        at = min(int(np.searchsorted(total, goal, side="right")), len(values) - 1)
        found = values[at]
        if 0 < at < len(values) - 1:
            step = total[at] - total[at - 1]
            part = (goal - total[at - 1]) / step if step >= 1 else 0.0
            found = values[at - 1] + part * (values[at] - values[at - 1])
        return float(np.float32(found)) if self.single else float(found)


@dataclass(frozen=True)
class Beside(Quantile):
    """CatBoost's: the first number at which the weights so far reach the level's share, moved by a little.

    Down where those below it and the level's share of its equals reach the same, else up.

    >>> Beside(0.5, delta=0.25).of_sorted(np.array([1.0, 2.0, 3.0]), np.ones(3))
    1.75
    """

    level: float
    single: bool = False
    """Whether it is rounded to float32."""
    weighted: bool = True
    """Whether numbers count by their weights, or all the same."""
    delta: float = 1e-6

    def of_sorted(self, values: np.ndarray, w: np.ndarray) -> float:
        w = w if self.weighted else np.ones(len(w))
        total = np.cumsum(w)
        goal = self.level * total[-1] - np.finfo(float).eps
        found = values[min(np.searchsorted(total, goal), len(values) - 1)]
        reached = w[values < found].sum() + self.level * w[values == found].sum()
        found = found - self.delta if reached >= goal else found + self.delta
        return float(np.float32(found)) if self.single else float(found)


@dataclass(frozen=True)
class Pinball(ResidualLoss):
    """The loss of the quantile q, q max(0, y - eta) + (1 - q) max(0, eta - y), times a factor: |y - eta| is twice that.

    >>> Pinball(0.9).value(torch.tensor([[1.0]]), torch.tensor([[3.0]]))
    tensor([1.8000])
    """

    level: float
    times: float = 1.0

    def of_residual(self, residual: Tensor) -> Tensor:
        return self.times * (residual.clamp(min=0) - self.level * residual)

    def first_derivative(self, residual: Tensor) -> Tensor:
        return self.times * ((residual > 0).to(residual) - self.level)

    def second_derivative(self, residual: Tensor) -> Tensor:
        return torch.zeros_like(residual)


@dataclass(frozen=True)
class BoostedQuantile(BoostedLoss):
    """A loss with a kink, whose leaves are quantiles of what is left of the targets: no sums, and no derivative.

    >>> rule = Interpolated(0.5)
    >>> BoostedQuantile(Pinball(0.5), Quantiles(rule, rule)).factor
    1.0
    """

    loss: LinearLoss
    quantiles: Quantiles
    factor: float = 1.0

    def slopes(self, scores: Float[Tensor, "b c"], targets: Tensor) -> Slopes:
        raise ValueError(KINKED)


def leaf_quantiles(
    rule: Quantile, left: Float[Tensor, " n"], w: Float[Tensor, " n"], where: Tensor, size: int
) -> tuple[Float[Tensor, " leaves"], Tensor]:
    """The quantile in each leaf, 0 where it has no rows, and which those are.

    Args:
        rule: how it is taken.
        left: of the targets, what the scores have not reached.
        w: what rows weigh; those of weight 0 are not there.
        where: the leaf of each row.
        size: how many leaves there are.
    """
    there = (w > 0).numpy()
    values, weights, leaf = left.numpy()[there], w.numpy()[there], where.numpy()[there]
    order = np.lexsort((values, leaf))
    counts = np.bincount(leaf, minlength=size)
    ends = np.cumsum(counts)
    found = np.zeros(size)
    for i in np.flatnonzero(counts):
        part = order[ends[i] - counts[i] : ends[i]]
        found[i] = rule.of_sorted(values[part], weights[part])
    return torch.from_numpy(found), torch.from_numpy(counts == 0)
