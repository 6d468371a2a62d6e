"""The streamed pass behind all scores: products of solved right-hand sides with the gradients of all training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float

from ..linalg.outer_products import Outer
from ..objective import Objective
from ..runtime.distributed import gather_rows, sum_across
from ..runtime.progress import track
from ..types import Tensor
from .top_k import strongest

Parts = Iterable[tuple[slice, Float[Tensor, "m b"]]]
"""Columns of scores, in order, each with the training rows that they are of."""


class Answer(NamedTuple):
    """m solved right-hand sides: `rows` are -A^-1 v, flat (m, p) or as outer products, and what is known about them.

    `drift` (m,) is the predicted change of each measure if training were finished; None while the scores themselves
    are to tell it.
    """

    rows: Tensor | Outer
    drift: Tensor | None
    residual: Tensor
    verdict: str


class Streamed(NamedTuple):
    """Scores (m, q): of all n training rows, or of the strongest, whose `columns` (m, q) tell which they are."""

    values: Tensor
    columns: Tensor | None
    drift: Tensor


def streamed(problem: Objective, answer: Answer, top: int | None = None) -> Streamed:
    """All scores of an answer in one pass over the training data; the `top` helpful and harmful ones where given."""
    m = len(answer.residual)
    sums = torch.zeros(m, dtype=torch.float64, device=problem.device)
    parts: Parts = track(problem.products(answer.rows), "scores", None)
    parts = _tallied(parts, sums) if answer.drift is None else parts
    values, columns = (whole(parts, m, problem.n), None) if top is None else strongest(parts, m, top)
    drift = _mean_score(problem, answer.rows, sum_across(sums)) if answer.drift is None else answer.drift
    return Streamed(values, columns, drift)


def whole(parts: Parts, m: int, n: int) -> Float[Tensor, "m n"]:
    """The columns of all processes, from each one's parts."""
    found = torch.empty(m, n, dtype=torch.float64)
    first, last = n, 0
    for part, block in parts:
        found[:, part] = block.double().cpu()
        first, last = min(first, part.start), max(last, part.stop)
    # Where nothing was divided, every process has them all.
    return gather_rows(found[:, first:last].T).T if last - first < n else found


def _tallied(parts: Parts, sums: Float[Tensor, " m"]) -> Iterator[tuple[slice, Float[Tensor, "m b"]]]:
    """The parts as they are, whose rows are added to `sums` as they pass."""
    for part, block in parts:
        sums += block.sum(1, dtype=torch.float64)
        yield part, block


def _mean_score(problem: Objective, rows: Tensor | Outer, sums: Float[Tensor, " m"]) -> Float[Tensor, " m"]:
    """The drift: -s . grad R for rows -s whose scores have these sums. It spares a pass for the gradient."""
    # What of the penalty's gradient is not in the scores already.
    left = problem.penalty.gradient(problem.theta) - problem.folded_penalty
    return sums / problem.n + (rows.to(problem.theta) @ left).double()
