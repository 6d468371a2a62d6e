"""Training examples that a question is about: rows by number, or a batch, with the weight that each has in training."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from ..data.names import check_edit
from ..data.row_sets import row_numbers
from ..data.user_terms import batch_index
from ..linear.following import relabelling_gradients
from ..objective import Objective
from ..types import ArrayLike, Tensor, as_tensor

EQUAL = 1e-12
"""Sample weights that differ by less than this share are the same one."""


@dataclass(frozen=True, eq=False)
class GivenRows:
    """Training examples with what they weigh in training, sample weight times class weight.

    `own` (b,) are their sample weights alone: what a changed example keeps when its label changes. `ids` are what
    tables call them, or None; `numbers` are their numbers, where they came by number.
    """

    batch: Any
    weights: Float[Tensor, " b"]
    own: Float[Tensor, " b"]
    ids: pd.Index | None
    numbers: Int[Tensor, " b"] | None = None

    def gradients(self, problem: Objective) -> Float[Tensor, "b p"]:
        """The gradient of each example in training, weight and folded penalty included."""
        if self.numbers is not None:
            return problem.train_gradients(self.numbers)
        return problem.gradients_as_train(self.batch, self.weights)

    def replaced(self, problem: Objective, batch: Any) -> Float[Tensor, "b p"]:
        """The gradients of b examples in place of these: with the same sample weights, and their own labels' ones.

        Raises ValueError for another number of examples, and for the same names in another order.
        """
        check_edit(self.ids, batch_index(batch))
        by_label = problem.label_weights(batch)
        if by_label.shape != self.own.shape:
            raise ValueError(f"`before` has {len(self.own)} examples, `after` has {len(by_label)}")
        found = problem.gradients_as_train(batch, by_label * self.own)
        if (model := problem.linear) is None or self.numbers is None or model.counts is None:
            return found
        targets = model.encode(model.prepared(batch)[1], len(found))
        return found + relabelling_gradients(model, self.numbers, targets, found - model.folded_penalty)

    def weighed(self, values: Float[Tensor, "k b *x"]) -> Float[Tensor, "k b *x"]:
        """Numbers of each example, times what it weighs in training."""
        return values * self.weights.to(values).view(-1, *[1] * (values.ndim - 2))


def given_rows(problem: Objective, rows: Any, weights: ArrayLike | None = None) -> GivenRows:
    """Training examples as a user gives them, with the weights that they have in training.

    Rows by number bring their weights along. A batch has the class weights of its labels, and `weights` times them;
    without `weights` the sample weight that all training examples share.

    Args:
        problem: whose training examples.
        rows: b row numbers, a pandas Index of their names, or a batch as the problem takes it.
        weights: the sample weight of each example of a batch (b,).

    Raises:
        ValueError: for a batch without `weights` where those of the training examples differ, numbers out of range,
            and weights of another shape or sign.
    """
    numbers = numbered(rows, problem.n, problem.train_index)
    if numbers is not None:
        if weights is not None:
            raise ValueError("rows by number have the weights of training: leave weights out")
        names = (
            pd.Index(numbers.numpy())
            if problem.train_index is None
            else problem.train_index.take(numbers.numpy())
        )
        here = numbers.to(problem.device)
        return GivenRows(
            problem.train_batch(numbers), problem.weights[here], problem.sample_weights[here], names, numbers
        )
    by_label = problem.label_weights(rows)
    own = _shared(problem, by_label) if weights is None else _checked(weights, by_label)
    return GivenRows(rows, own * by_label, own, batch_index(rows))


def numbered(rows: Any, n: int, index: pd.Index | None = None) -> Int[Tensor, " b"] | None:
    """Row numbers (b,) where numbers or names were given (a number, a list, a range, an array, an Index), else None.

    Args:
        rows: what was given; a pandas Index are names.
        n: the number of training rows.
        index: what these are called, or None.

    Raises:
        ValueError: for numbers outside 0..n-1, unknown names, and whole numbers that may be either.

    >>> numbered([3, 1], 4), numbered((torch.eye(2), torch.zeros(2)), 4)
    (tensor([3, 1]), None)
    """
    whole = isinstance(rows, (Integral, range, pd.Index)) or (
        isinstance(rows, (list, tuple)) and len(rows) > 0 and all(isinstance(row, Integral) for row in rows)
    )
    flat = isinstance(rows, (np.ndarray, Tensor)) and rows.ndim <= 1
    if not whole and not flat:
        return None
    if not isinstance(rows, pd.Index):
        rows = rows.reshape(-1) if isinstance(rows, Tensor) else np.asarray(rows).reshape(-1)
        kind = as_tensor(rows).dtype
        if kind == torch.bool or kind.is_floating_point:
            raise TypeError(f"rows by number must be whole numbers, got {kind}; a batch is (inputs, targets)")
    found = row_numbers(rows, n, index)
    outside = found[(found < 0) | (found >= n)]
    if len(outside):
        raise ValueError(f"there is no training row {int(outside[0])}: rows are 0 to {n - 1}")
    return found.cpu()


def _shared(problem: Objective, by_label: Tensor) -> Tensor:
    """The sample weight that all training examples share, for each of a batch."""
    own = problem.sample_weights
    low, high = float(own.min()), float(own.max())
    if not high - low <= EQUAL * high:  # NaN where a class of weight 0 hides them
        raise ValueError(
            f"the training examples have sample weights from {low:g} to {high:g}, and a batch does not say which its "
            "examples have: give rows by number, or weights= with the sample weight of each (class weights follow "
            "the labels by themselves)"
        )
    return torch.full_like(by_label, high)


def _checked(weights: ArrayLike, by_label: Tensor) -> Tensor:
    found = as_tensor(weights).to(by_label)
    if found.shape != by_label.shape or not bool((found >= 0).all() and found.isfinite().all()):
        raise ValueError(
            f"weights must be {len(by_label)} finite numbers >= 0, the sample weight of each example given, got shape "
            f"{tuple(found.shape)}"
        )
    return found
