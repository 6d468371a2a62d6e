"""The streamed pass behind all scores: products of solved right-hand sides with the gradients of all training rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from jaxtyping import Float

from ..curvature.base import Curvature
from ..data.user_terms import batch_index
from ..linalg.outer_products import Outer, joined
from ..measures import Measure, name_of
from ..objective import Objective
from ..runtime.distributed import gather_rows, sum_across
from ..runtime.progress import track
from ..types import Tensor
from . import checks
from .defaults import Settings
from .forecasts import HELD, of_stand_in
from .scores import Scores
from .stationarity import warn_away
from .top_k import strongest

UNASKED = 1e-3
"""The error to which answers of EKFAC are compressed where nobody asked for it: far below what EKFAC leaves out."""
LARGE = 1e11
"""Multiplications m n p of scores from which on that is done."""
SEVERAL = 1000
"""Products per side of a layer from which on its singular value decomposition costs little beside them."""
Parts = Iterable[tuple[slice, Float[Tensor, "m _"]]]
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


def compressed(
    problem: Objective, curvature: Curvature, test: Any, measure: Measure | None, tolerance: float
) -> Answer:
    """-A^-1 v of many test measures as a few outer products per layer instead of p numbers each; EKFAC only.

    Args:
        problem: what was trained, with gradients by layers.
        curvature: A, whose inverse keeps the layers apart.
        test: m test examples, as the problem takes them.
        measure: what is asked about, default the loss.
        tolerance: the largest relative error, in the norm of A.

    Returns:
        The answer, its drift still open, its residual the relative error of the compression.

    Raises:
        TypeError: for other curvatures, problems without layers, and measures of a whole batch.
        StaleError: where the model or the training data changed.
    """
    layers, outer = problem.layers, curvature.outer
    if outer is None or layers is None or (measure is not None and measure.single):
        raise TypeError(
            "compress is for EKFAC and measures of single examples: leave it out, or give "
            "curvature=EKFAC(problem, damping)"
        )
    problem.check_current()
    checks.determinism(problem)
    found = outer.compress(joined(list(layers.test_pairs(test, measure))), tolerance)
    return Answer(-found.vectors, None, found.error, found.verdict)


def cheaper(problem: Objective, curvature: Curvature, test: Any, measure: Measure | None) -> Answer | None:
    """What `compressed` gives to an error of `UNASKED`, where it is asked so much that this saves most of the work.

    Layers that see several positions of an example gain little, and small questions need nothing: None, as where the
    inverse takes so many outer products (little damping) that answers may as well be written out.

    Args:
        problem: what was trained.
        curvature: A.
        test: m test examples, as the problem takes them.
        measure: what is asked about, default the loss.
    """
    layers, outer = problem.layers, curvature.outer
    asked_alone = measure is not None and measure.single
    flat = curvature.damping == 0 and problem.gauge is not None
    if outer is None or not outer.sums or layers is None or asked_alone or flat or not layers.together:
        return None
    pairs = joined(list(layers.test_pairs(test, measure)))
    products = len(pairs.rest) * problem.n
    sides = [min(left.shape[2], right.shape[2]) for left, right in pairs.layers if left.shape[1] == 1]
    if products * problem.p < LARGE or len(sides) < len(pairs.layers) or products < SEVERAL * max(sides):
        return None
    problem.check_current()
    checks.determinism(problem)
    found = outer.compress(pairs, UNASKED)
    if 2 * found.vectors.numbers > problem.p:
        return None
    said = f"{found.verdict} (to write them out, which takes longer: solver=Exact())"
    return Answer(-found.vectors, None, found.error, said)


class Streamed(NamedTuple):
    """Scores (m, q) of all n training rows, or of the strongest, whose `columns` (m, q) tell which they are.

    `drift` (m,) is that of the answer, or what the scores themselves told while they passed.
    """

    values: Tensor
    columns: Tensor | None
    drift: Tensor


def streamed(
    problem: Objective, answer: Answer, top: int | None = None, measure: Measure | None = None
) -> Streamed:
    """All scores of an answer, s . g_i, in one pass over the training data, block by block (Eq. 2).

    Args:
        problem: whose n training examples.
        answer: m solved right-hand sides.
        top: k keeps only the k smallest and the k largest scores of each row, so that memory does not grow with n.
        measure: what is asked about, None for the loss; one that sees the weights of the rows adds its own derivative.
    """
    m = len(answer.residual)
    sums = torch.zeros(m, dtype=torch.float64, device=problem.device)
    parts: Parts = track(problem.products(answer.rows), "scores", None)
    parts = _tallied(parts, sums) if answer.drift is None else parts
    if measure is not None and measure.sees_weights is not None:
        own = problem.n * measure.sees_weights.by_weight()
        parts = ((part, block + own[part]) for part, block in parts)
    values, columns = (all_columns(parts, m, problem.n), None) if top is None else strongest(parts, m, top)
    drift = _mean_score(problem, answer.rows, sum_across(sums)) if answer.drift is None else answer.drift
    return Streamed(values, columns, drift)


def all_columns(parts: Parts, m: int, n: int) -> Float[Tensor, "m n"]:
    """The whole score matrix, in float64 on the processor, from the columns that each process computed.

    Args:
        parts: the blocks of this process, (m, b) each.
        m: rows.
        n: columns, of all processes together.
    """
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
    """The drift: -s . grad R for rows -s whose scores have these sums.

    n grad R is the sum of the training gradients, but for the penalty where it is not folded into them: so the scores
    tell it without a pass for the gradient.
    """
    # What of the penalty's gradient is not in the scores already.
    left = problem.penalty.gradient(problem.theta) - problem.folded_penalty
    return 0.0 + sums / problem.n + (rows.to(problem.theta) @ left).double()


def as_scores(
    problem: Objective,
    asked: tuple[Any, Measure | None],
    values: Float[Tensor, "m q"],
    answer: Answer,
    **fields: Any,
) -> Scores:
    """Numbers with all that is known about them.

    Args:
        problem: what was trained.
        asked: m test examples and what is asked about them, None for the loss.
        values: I_up of Eq. 2.
        answer: what they come from.
        fields: of `Scores` that differ from a removal's of all rows.
    """
    test, measure = asked
    # A measure of a whole batch, or of the parameters alone, has no test row to be named after.
    known: dict[str, Any] = {
        "measure": name_of(measure),
        "ids": problem.train_index,
        "test_ids": batch_index(test) if measure is None or not measure.single else None,
        "drift": None if answer.drift is None or not problem.facts.own_loss else answer.drift.double(),
        "residual": answer.residual.double(),
        "doubt": of_stand_in(problem.linear),
        "said": () if problem.stages is None else (HELD,),
        "verdict": "; ".join(filter(None, [answer.verdict, problem.facts.caution])),
    }
    found = Scores(values, problem.n, **{**known, **fields})
    warn_away(problem, found.measure, found.drift, found.effect())
    return found


def underivable(problem: Objective, measure: Measure, provenance: dict[str, Any]) -> Scores:
    """Scores of a measure without a derivative, which first order says nothing of: NaN.

    Args:
        problem: what was trained.
        measure: one number of a whole reference set.
        provenance: what they come from.
    """
    problem.check_current()
    unknown = torch.full((1, problem.n), torch.nan, dtype=torch.float64)
    known: dict[str, Any] = {
        "ids": problem.train_index,
        "doubt": of_stand_in(problem.linear),
        "provenance": provenance,
    }
    return Scores(unknown, problem.n, measure=measure.name, **known)


def provenance(problem: Objective, settings: Settings, fingerprint: str) -> dict[str, Any]:
    """Where scores come from, as they carry it.

    Args:
        problem: what was trained.
        settings: curvature and solver, with reasons.
        fingerprint: the content hash of all of it.
    """
    return {
        "fingerprint": fingerprint,
        "settings": list(settings.reasons),
        "keep": problem.keep,
        "notes": list(problem.terms.notes),
        "away": problem.facts.away,
        **({} if problem.stages is None else {"behind": "The trees behind the effects"}),
    }
