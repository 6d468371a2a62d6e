"""What a model says of one row, as something that may be overturned: a class, or the side of a bar a value is on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float

from ..outputs import OutputModel
from ..types import Tensor
from .labels import decided, label_names, margins


class Verdict(ABC):
    """What a model said of one row to begin with; it is overturned where its `margin` is negative."""

    @abstractmethod
    def margin(self, outputs: Float[Tensor, "b c"], targets: Any = None) -> Float[Tensor, " b"]:
        """How far outputs are from overturning it; negative = they do. It is a measure; targets are not looked at."""

    @abstractmethod
    def told(self, model: OutputModel, outputs: Float[Tensor, "1 c"]) -> Any:
        """What outputs say of the row: its class as the user calls it, or its value."""


@dataclass(frozen=True, eq=False)
class SaidClass(Verdict):
    """An encoded class (1,): the margin is its output less its strongest rival's."""

    code: Tensor

    def margin(self, outputs: Float[Tensor, "b c"], targets: Any = None) -> Float[Tensor, " b"]:
        return margins(outputs, self.code.expand(len(outputs)))

    def told(self, model: OutputModel, outputs: Float[Tensor, "1 c"]) -> Any:
        return label_names(model, decided(outputs))[0]


@dataclass(frozen=True, eq=False)
class SaidSide(Verdict):
    """The side of a bar that a value is on, 1 above and -1 below: the margin is how far it is away, in its own unit.

    Args:
        model: whose values they are.
        bar: what they are held against.
        side: where the value was.
    """

    model: OutputModel
    bar: float
    side: int

    def values(self, outputs: Float[Tensor, "b 1"]) -> Float[Tensor, "b 1"]:
        """What outputs say in the unit of the target: of a model of logarithms their exponentials."""
        means = self.model.loss.means
        return outputs if means is None else means(outputs, torch.zeros_like(outputs))

    def margin(self, outputs: Float[Tensor, "b 1"], targets: Any = None) -> Float[Tensor, " b"]:
        return self.side * (self.values(outputs)[:, 0] - self.bar)

    def told(self, model: OutputModel, outputs: Float[Tensor, "1 1"]) -> Any:
        return float(self.values(outputs)[0, 0])


def verdict_of(model: OutputModel, outputs: Float[Tensor, "1 c"], past: float | None) -> Verdict:
    """What outputs (1, c) say of one row.

    Args:
        model: whose outputs they are.
        outputs: of the row.
        past: the bar that a value is held against, None for classes.

    Raises:
        ValueError: for a bar of classes, a value without one, one that the value stands on, and several values.
    """
    if model.loss.classifies:
        if past is not None:
            raise ValueError(
                "past is a bar for predictions of quantities, and this model's are classes: leave it out"
            )
        return SaidClass(decided(outputs))
    if past is None:
        raise ValueError(
            "this model predicts quantities, which do not flip: give past=, the value that the prediction is to pass"
        )
    if outputs.shape[1] != 1:
        raise ValueError(f"past is for models of one quantity, and this one predicts {outputs.shape[1]}")
    value = SaidSide(model, past, 1).told(model, outputs)
    if value == past:
        raise ValueError(f"the prediction is {value:.6g}, on neither side of past = {past:g}")
    return SaidSide(model, past, 1 if value > past else -1)


Rows = TypeVar("Rows", Tensor, list[int])
"""Rows or units in the order in which a search took them."""


def shortest_that(rows: Rows, overturns: Callable[[Rows], bool]) -> int:
    """The length of the shortest beginning of rows that does it, by bisection: log2(k) tries.

    One row less does not, or was never tried because it is none.

    Args:
        rows: in the order in which they were taken; all of them do it.
        overturns: whether some beginning does.
    """
    low, high = 0, len(rows)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if overturns(rows[:middle]) else (middle, high)
    return high
