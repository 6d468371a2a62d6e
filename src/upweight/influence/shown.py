"""Which training rows get further Newton steps: all of few data, of more those whose effects are shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int

from ..measures import Measure
from ..types import Tensor
from .kinks import Kinks
from .leave_one_out import RowSteps
from .settling import MOST, Changes, Settled

SHOWN = 10
"""Rows of either sign that a table shows."""
REFITS = 100
"""Rows over kinks up to which the estimator is fitted again without each; of more those that are shown."""


def sides(ranking: Float[Tensor, " n"], k: int) -> tuple[Int[Tensor, " k"], Int[Tensor, " k"]]:
    """The k rows of largest and the k of smallest number, the strongest first; what is not known counts as 0.

    >>> sides(torch.tensor([0.5, -2.0, 1.0]), 1)
    (tensor([2]), tensor([1]))
    """
    order = ranking.nan_to_num(0).sort(descending=True).indices
    return order[:k], order.flip(0)[:k]


def changes_shown(
    steps: RowSteps,
    batch: Any,
    measure: Measure | None,
    *,
    most: int | None = None,
    top: int = SHOWN,
    rows: Any = None,
) -> Changes:
    """The change of each test measure without each training row, by as many Newton steps as it needs where it is shown.

    What is known of a row and a test example does not depend on the other test examples.

    Args:
        steps: the first steps of all rows.
        batch: m test examples.
        measure: what is asked about, None for the loss.
        most: steps of all rows, at most; None: `settling.MOST` where all rows can be settled in about a second, else
            of those that are shown.
        top: rows of either sign that are shown of each test example.
        rows: rows that are shown whatever their effect.
    """
    problem, given = steps.total.problem, batch
    if measure is None or measure.uses_batch:
        batch = problem.prepared(batch)
    if measure is not None and measure.sees_weights is not None:
        return _seeing_weights(steps, measure, most)
    if most == 1:
        return Changes.of_one_step(steps.changes(batch, measure))
    found = _until_settled(steps, batch, measure, most, (top, rows))
    return found if most is not None else over_kinks(Kinks(problem, (given, measure), found), top, rows)


def over_kinks(kinks: Kinks, top: int = SHOWN, rows: Any = None) -> Changes:
    """The changes by refits where a removal leads over a kink: of all such columns, or where these are many if shown.

    Args:
        kinks: the changes by Newton steps, and how to refit.
        top: columns of either sign that are shown of each test row, where each column is a row alone.
        rows: columns that are shown whatever their effect.
    """
    if not kinks.can_be_refitted:
        return kinks.marked
    if int(kinks.over.sum()) <= REFITS:
        return kinks.changes(torch.arange(len(kinks.over)))
    return settled_where_shown(kinks.marked, kinks.changes, top, rows)


def _seeing_weights(steps: RowSteps, measure: Measure, most: int | None) -> Changes:
    """The changes of a measure that sees which rows are there, at settled parameters where these are few.

    Args:
        steps: the first steps of all rows.
        measure: what is asked about.
        most: steps of all rows, at most, or None.
    """
    if most is not None or not steps.few or measure.sees_weights is None:
        return Changes.of_one_step(steps.changes(None, measure))
    found = steps.all_settled
    changes = measure.sees_weights.changes(torch.arange(steps.total.problem.n), found.theta)[None]
    return Changes(changes, found.steps.expand_as(changes), found.left.expand_as(changes))


def _until_settled(
    steps: RowSteps, batch: Any, measure: Measure | None, most: int | None, asked: tuple[int, Any]
) -> Changes:
    """The changes by Newton steps alone.

    Args:
        steps: the first steps of all rows.
        batch: m test examples, prepared.
        measure: what is asked about, None for the loss.
        most: steps of all rows, at most, or None.
        asked: how many rows of either sign are shown, and those that are in any case.
    """
    problem, (top, rows) = steps.total.problem, asked
    before = problem.evaluate_each(batch, problem.theta[None], measure)[0]

    def at(found: Settled) -> Changes:
        changes = (problem.evaluate_each(batch, found.theta, measure) - before).T
        return Changes(changes, found.steps.expand_as(changes), found.left.expand_as(changes))

    if most is None and steps.few:
        return at(steps.all_settled)
    if most is not None:
        return side_by_side([at(found) for found in steps.settled(torch.arange(problem.n), most)])
    first = Changes.of_one_step(steps.changes(batch, measure))

    def of_some(index: Int[Tensor, " k"]) -> Changes:
        return side_by_side([at(some) for some in steps.settled(index, MOST)])

    return settled_where_shown(first, of_some, top, rows)


def side_by_side(parts: list[Changes]) -> Changes:
    """The changes of some columns and those of others in one."""
    return Changes(*(torch.cat(of_all, dim=1) for of_all in zip(*parts, strict=True)))


def settled_where_shown(
    found: Changes, settled: Callable[[Tensor], Changes], top: int, rows: Any = None
) -> Changes:
    """The changes by first steps, but settled in columns that are among the strongest of a line, which then are shown.

    Args:
        found: by the first step (m, n), written over.
        settled: from k columns, by number, to their settled changes (m, k).
        top: columns of either sign that are shown of each line.
        rows: columns that are shown whatever their effect.
    """
    done = torch.zeros(found.changes.shape, dtype=torch.bool)
    while True:
        shown = torch.zeros_like(done)
        for own, line in zip(shown, found.changes, strict=True):
            own[torch.cat(sides(line, top))] = True
        if rows is not None:
            shown[:, torch.as_tensor(rows)] = True
        new = shown & ~done
        if not bool(new.any()):
            return found
        index = new.any(0).nonzero()[:, 0]
        for old, further in zip(found, settled(index), strict=True):
            old[:, index] = torch.where(new[:, index], further, old[:, index])
        done |= new
