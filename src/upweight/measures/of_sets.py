"""Measures of a whole reference set: one number of all its outputs and targets, smooth or not.

All of them take the outputs of k models at once, (k, m, c), as well as those of one, (m, c). Targets of two classes are
0/1 or -1/+1; the second class is the positive one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..types import Tensor, as_tensor
from .kinds import Nearby, Overall
from .nearly_sorted import rank_sums
from .swaps import pairs_in_order


def _of_set(
    smooth: bool, probabilities: bool = False, nearby: Nearby | None = None, by_class: bool = False
) -> Callable[[Callable[[Any, Any], Tensor]], Overall]:
    """A decorator that makes a measure of a function of the last dimensions of outputs."""
    return lambda function: Overall(
        function, smooth, batched=True, probabilities=probabilities, nearby=nearby, by_class=by_class
    )


def _auroc_nearby(base: Tensor, shifts: Tensor, targets: Any, error: Tensor) -> Tensor:
    """The AUROC of many models whose outputs are near those of one, by the pairs that swap; NaN where in doubt."""
    _, positive = _two_classes(base, targets)
    pairs = int(_some(positive, "second").sum()) * int(_some(~positive, "first").sum())
    counts, doubtful = pairs_in_order(base.numpy(), shifts.numpy(), positive.numpy(), error.numpy())
    return torch.where(torch.from_numpy(doubtful), torch.nan, torch.from_numpy(counts).double() / pairs)


@_of_set(smooth=False, nearby=_auroc_nearby)
def auroc(outputs: Tensor, targets: Tensor) -> Tensor:
    """The area under the ROC curve: the share of pairs of a positive and a negative row that the outputs order rightly.

    Ties count one half, as in scikit-learn. It has no derivative: it changes only where two rows swap places, and is
    asked about where rows are removed, `influence.leave_one_out().change(test, measure=measures.auroc)`.

    Args:
        outputs: (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> auroc.function(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]))
    tensor(0.5000, dtype=torch.float64)
    """
    scores, positive = _two_classes(outputs.detach(), targets)
    p, n = int(_some(positive, "second").sum()), int(_some(~positive, "first").sum())
    rows = scores.reshape(-1, p + n).cpu().double().numpy()
    order = rows[0].argsort()
    rows, positive = np.ascontiguousarray(rows.T[order].T), positive.cpu().numpy()[order]
    ranks, tied = rank_sums(rows, positive)
    if tied:
        of_negative, _ = rank_sums(rows, ~positive)
        ranks = (ranks + (p + n) * (p + n - 1) / 2 - of_negative) / 2
    return torch.from_numpy((ranks - p * (p - 1) / 2) / (p * n)).reshape(scores.shape[:-1])


@_of_set(smooth=False)
def average_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean, over the positive rows, of the share of positive ones among all rows that stand as high or higher.

    It is scikit-learn's `average_precision_score`, the area under the steps of the precision-recall curve. Without a
    derivative, as `auroc`.

    Args:
        outputs: (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> average_precision.function(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 1, 0]))
    tensor(0.5000, dtype=torch.float64)
    """
    positive, negative = _sorted_by_class(outputs, targets)
    own = positive.shape[-1] - torch.searchsorted(positive, positive)
    others = negative.shape[-1] - torch.searchsorted(negative, positive)
    return (own.double() / (own + others)).mean(-1)


@_of_set(smooth=False, by_class=True)
def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of rows whose class is the one that the model says: the largest output, or the sign of a single one.

    `at_threshold` moves the boundary between two classes.

    Args:
        outputs: (m, c).
        targets: classes, (m,).

    >>> accuracy.function(torch.tensor([[1.0], [-2.0], [3.0]]), torch.tensor([0, 0, 1]))
    tensor(0.6667, dtype=torch.float64)
    """
    outputs = outputs[..., None] if outputs.ndim == 1 else outputs
    if outputs.shape[-1] > 2:
        return (outputs.argmax(-1) == _flat(targets)).double().mean(-1)
    scores, positive = _two_classes(outputs, targets)
    return ((scores > 0) == positive).double().mean(-1)


@_of_set(smooth=False)
def selection_rate(outputs: Tensor, targets: Any) -> Tensor:
    """The share of rows that the model calls positive; its gap between groups is the demographic parity difference.

    The targets are not looked at.

    Args:
        outputs: (m, 1), or (m, 2) of softmax.
        targets: anything.

    >>> selection_rate.function(torch.tensor([[1.0], [-2.0]]), None)
    tensor(0.5000, dtype=torch.float64)
    """
    return (_scores(outputs) > 0).double().mean(-1)


@_of_set(smooth=False)
def true_positive_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of positive rows that the model calls so (recall); its gap between groups is that of equal opportunity.

    Args:
        outputs: (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> true_positive_rate.function(torch.tensor([[1.0], [-2.0], [3.0]]), torch.tensor([1, 1, 0]))
    tensor(0.5000, dtype=torch.float64)
    """
    scores, positive = _two_classes(outputs, targets)
    return (scores[..., _some(positive, "second")] > 0).double().mean(-1)


@_of_set(smooth=False)
def false_positive_rate(outputs: Tensor, targets: Tensor) -> Tensor:
    """The share of negative rows that the model calls positive; with the true positive rate, equalised odds.

    Args:
        outputs: (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> false_positive_rate.function(torch.tensor([[1.0], [-2.0], [3.0]]), torch.tensor([1, 1, 0]))
    tensor(1., dtype=torch.float64)
    """
    scores, positive = _two_classes(outputs, targets)
    return (scores[..., _some(~positive, "first")] > 0).double().mean(-1)


@_of_set(smooth=True, probabilities=True)
def brier(outputs: Tensor, targets: Tensor) -> Tensor:
    """The mean squared difference of the positive class's probability and what came true, 1 or 0.

    Args:
        outputs: logits (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> brier.function(torch.zeros(2, 1), torch.tensor([0, 1]))
    tensor(0.2500)
    """
    scores, positive = _two_classes(outputs, targets)
    return (scores.sigmoid() - positive.to(scores)).square().mean(-1)


@_of_set(smooth=False, probabilities=True)
def calibration_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The expected calibration error: how far probabilities are from frequencies, in ten equal bins of the probability.

    The mean over rows of the difference, in a row's bin, between the mean probability of the positive class and its
    share.

    Args:
        outputs: logits (m, 1), or (m, 2) of softmax.
        targets: two classes, (m,).

    >>> calibration_error.function(torch.zeros(4, 1), torch.tensor([0, 1, 1, 1]))
    tensor(0.2500)
    """
    scores, positive = _two_classes(outputs, targets)
    said = scores.sigmoid()
    bins = (10 * said).long().clamp(max=9)
    sums = said.new_zeros(*said.shape[:-1], 10).scatter_add(-1, bins, said - positive.to(said))
    return sums.abs().sum(-1) / said.shape[-1]


def at_threshold(threshold: float, of: Overall) -> Overall:
    """A measure of decisions that call a row positive where its probability is above another value than one half.

    Args:
        threshold: the probability, between 0 and 1.
        of: `accuracy`, `selection_rate`, `true_positive_rate`, `false_positive_rate`, or one of their gaps.

    >>> at_threshold(0.9, selection_rate).function(torch.tensor([[1.0], [3.0]]), None)
    tensor(0.5000, dtype=torch.float64)
    """
    if not 0 < threshold < 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold}")
    boundary = math.log(threshold / (1 - threshold))

    def moved(outputs: Tensor, targets: Any) -> Tensor:
        return of.function(_scores(outputs)[..., None] - boundary, targets)

    moved.__name__ = f"{of.name} at {threshold:g}"
    return Overall(moved, of.smooth, of.batched, probabilities=True)


def highest(of: Overall, by: Any) -> Overall:
    """The largest value that a measure has in one of the groups of the reference rows: the worst group of an error.

    Args:
        of: a measure of a whole set.
        by: the group of each reference row (m,), in their order; rows without one are a group of their own.

    >>> highest(brier, ["a", "b"]).function(torch.tensor([[0.0], [9.0]]), torch.tensor([1, 1]))
    tensor(0.2500)
    """
    return _of_groups(of, by, "highest", lambda found: found.amax(0))


def lowest(of: Overall, by: Any) -> Overall:
    """The smallest value that a measure has in one of the groups of the reference rows: the worst group of an accuracy.

    Args:
        of: a measure of a whole set.
        by: the group of each reference row (m,), in their order; rows without one are a group of their own.

    >>> lowest(accuracy, ["a", "a", "b"]).function(torch.ones(3, 1), torch.tensor([1, 0, 1]))
    tensor(0.5000, dtype=torch.float64)
    """
    return _of_groups(of, by, "lowest", lambda found: found.amin(0))


def gap(of: Overall, by: Any) -> Overall:
    """The largest less the smallest value that a measure has in one of the groups of the reference rows, at least 0.

    Of `selection_rate` it is the demographic parity difference, of `true_positive_rate` that of equal opportunity.

    Args:
        of: a measure of a whole set.
        by: the group of each reference row (m,), in their order; rows without one are a group of their own.

    >>> gap(selection_rate, ["a", "a", "b"]).function(torch.tensor([[1.0], [-1.0], [1.0]]), None)
    tensor(0.5000, dtype=torch.float64)
    """
    return _of_groups(of, by, "gap of", lambda found: found.amax(0) - found.amin(0))


def cohens_d(by: Any) -> Overall:
    """How far apart the outputs of two groups of reference rows are: the difference of means in standard deviations.

    Second group less first, in the order of their names; the standard deviation within groups, pooled. With the true
    classes as groups it says how well the model tells them apart, and moves with every row unlike `auroc`.

    Args:
        by: the group of each reference row (m,), in their order: two of them.

    >>> cohens_d(["a", "a", "b", "b"]).function(torch.tensor([[0.0], [2.0], [2.0], [4.0]]), None)
    tensor(1.4142)
    """
    groups = list(_members(by).values())
    if len(groups) != 2 or min(map(len, groups)) < 2:
        raise ValueError(
            f"cohens_d is about two groups of at least two rows, got {len(groups)} of {[len(g) for g in groups]} rows"
        )

    def cohens_d(outputs: Tensor, targets: Any) -> Tensor:
        scores = _scores(outputs)
        _check_length(groups, scores.shape[-1])
        first, second = (scores[..., members] for members in groups)
        squares = torch.cat([x - x.mean(-1, keepdim=True) for x in (first, second)], -1).square().sum(-1)
        return (second.mean(-1) - first.mean(-1)) / (squares / (scores.shape[-1] - 2)).sqrt()

    return Overall(cohens_d, smooth=True, batched=True)


# -- of groups ---------------------------------------------------------------------------------------------------------


def _of_groups(of: Overall, by: Any, word: str, together: Callable[[Tensor], Tensor]) -> Overall:
    """A measure of the values that another has in each group of the reference rows."""
    groups = _members(by)

    def in_group(name: Any, rows: Tensor, outputs: Tensor, targets: Tensor | None) -> Tensor:
        try:
            found = of.function(outputs[..., rows, :], None if targets is None else targets[rows])
        except ValueError as error:
            raise ValueError(f"group {name!r}: {error}") from error
        return torch.as_tensor(found)

    def combined(outputs: Tensor, targets: Any) -> Tensor:
        _check_length(groups.values(), outputs.shape[-2] if outputs.ndim > 1 else len(outputs))
        targets = None if targets is None else as_tensor(targets)
        if outputs.ndim == 1:
            outputs = outputs[:, None]
        return together(
            torch.stack([in_group(name, rows, outputs, targets) for name, rows in groups.items()])
        )

    combined.__name__ = f"{word} {of.name}"
    return Overall(combined, of.smooth, of.batched, of.probabilities, by_class=of.by_class)


def _members(by: Any) -> dict[Any, Tensor]:
    """The rows of each group by its name, in the order of the names."""
    codes, names = pd.factorize(np.asarray(by), use_na_sentinel=False)
    order = sorted(range(len(names)), key=lambda j: (str(type(names[j])), names[j]))
    return {names[j]: torch.from_numpy(np.flatnonzero(codes == j)) for j in order}


def _check_length(groups: Iterable[Tensor], m: int) -> None:
    if (count := sum(map(len, groups))) != m:
        raise ValueError(
            f"by has the groups of {count} rows, and {m} rows are asked about: one for each, in their order"
        )


# -- of two classes ----------------------------------------------------------------------------------------------------


def _scores(outputs: Tensor) -> Tensor:
    """How strongly the outputs (..., m, c) of a model of two classes speak for the second, (..., m)."""
    if outputs.ndim == 1:
        return outputs
    if outputs.shape[-1] > 2:
        raise ValueError(
            f"the measure is about two classes, and the model has {outputs.shape[-1]} outputs: ask about one class "
            "with measures.Overall(lambda outputs, targets: ...)"
        )
    return outputs[..., 0] if outputs.shape[-1] == 1 else outputs[..., 1] - outputs[..., 0]


def _flat(targets: Any) -> Tensor:
    targets = as_tensor(targets)
    return targets[:, 0] if targets.ndim == 2 and targets.shape[1] == 1 else targets


def _two_classes(outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The score of each row, and which rows (m,) are of the second class."""
    scores, classes = _scores(outputs), _flat(targets)
    positive = classes == 1
    if not (positive | (classes == 0) | (classes == -1)).all():
        raise ValueError("the measure is about two classes: targets must be 0 and 1, or -1 and 1")
    if classes.shape != scores.shape[-1:]:
        raise ValueError(f"outputs are of {scores.shape[-1]} rows, targets of shape {tuple(classes.shape)}")
    return scores, positive


def _some(rows: Tensor, name: str) -> Tensor:
    """A mask of the reference rows (of a group) that are of a class, of which there must be one."""
    if not rows.any():
        raise ValueError(
            f"among {len(rows)} reference rows (of a group) none is of the {name} class, so that the measure has no "
            "value: ask about more rows, or join groups"
        )
    return rows


def _sorted_by_class(outputs: Tensor, targets: Any) -> tuple[Tensor, Tensor]:
    """The scores of the positive rows, and of the negative ones, each from low to high (..., k)."""
    scores, positive = _two_classes(outputs.detach(), targets)
    _some(~positive, "first")
    return (
        scores[..., _some(positive, "second")].sort(-1).values.contiguous(),
        scores[..., ~positive].sort(-1).values.contiguous(),
    )
