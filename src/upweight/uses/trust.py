"""Whether the answers about a model can be trusted, and why not: the question that should come before the others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from scipy import stats

from ..errors import InfluenceError
from ..influence.defaults import Settings
from ..influence.influence import Influence
from ..influence.replayed import REMOVALS, Replayed, by_replays
from ..influence.scores import Scores
from ..influence.stationarity import below_drift, far_away, unfinished
from ..influence.unrolled import Answers
from ..measures import MeasureLike, as_measure
from ..objective import Objective
from ..runtime.notebook import as_html
from ..runtime.terminal import plain

Level = Literal["trust", "trust the ranking only", "do not trust"]
UNSTABLE, SHAKY = 0.5, 0.9
"""Rank correlations over the damping below which nothing, or only a ranking, is to be trusted."""
SIZE = 1.5
"""Ratio of the scores' sizes over the damping above which only the ranking is."""
MISSED = 0.5
"""Errors against replays, as a share of the effects, above which only the ranking is."""
HELPS = "; what helps: begin later, after a warm-up (run.last), smaller steps, the mean over several runs (Scores.mean)"
NOISE, LOOSE = 0.5, 0.1
"""Relative residuals of estimated solves above which nothing, or only the ranking, is to be trusted."""


@dataclass(frozen=True, eq=False)
class Trust:
    """A plain verdict with its reasons, the gravest first.

    `sensitivity` has a line per damping tried: the rank correlation with the scores at the damping in use (lowest and
    median over test rows) and the size ||scores|| relative to theirs; NaN where the curvature is not positive definite.
    """

    level: Level
    reasons: tuple[str, ...]
    sensitivity: pd.DataFrame

    def __repr__(self) -> str:
        lines = [self.level, *(f"- {reason}" for reason in self.reasons)]
        if len(self.sensitivity):
            lines += ["Scores at other dampings:", self.sensitivity.to_string()]
        return plain("\n".join(lines))

    def _repr_html_(self) -> str:
        strip = ["Scores at other dampings:", self.sensitivity] if len(self.sensitivity) else []
        return as_html(self.level, *(f"- {reason}" for reason in self.reasons), *strip)


def trust(
    influence: Answers,
    test: Any,
    *,
    measure: MeasureLike | None = None,
    factors: Sequence[float] = (0.1, 10.0),
    removals: int = REMOVALS,
) -> Trust:
    """A verdict on what often goes wrong: unfinished training, failed or noisy solves, scores that hang on the damping.

    A failed solve is a verdict as well, never an exception. Of a recorded run some rows are removed and training is
    replayed: a derivative predicts nothing where training is not smooth in the weights. Of other models it says nothing
    about whether retraining would agree: that is what `verify` is for.

    Args:
        influence: whose answers are judged.
        test: m test examples, as the problem takes them.
        measure: what is asked about, default the loss.
        factors: multiples of the damping at which all scores are computed once more; none are where it is 0.
        removals: rows of a recorded run that are removed, see `Unrolled.replayed`; 0: none.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([1.0, 2.0, 4.0])
    >>> found = trust(Influence(LinearProblem.fit(X, y, loss=Squared(), l2=0.1)), (X[:1], y[:1]))
    >>> found.level, found.reasons[1]
    ('trust', 'no damping was needed')
    """
    influence = influence.formulas
    nothing = pd.DataFrame(columns=["rank correlation", "median", "size"])
    try:
        scores = influence.on_loss(test, measure=measure)
    except InfluenceError as failure:
        return Trust("do not trust", (f"no answer: {failure}",), nothing)
    found, table, problem = list[tuple[int, str]](), nothing, influence.problem
    if removals and problem.replays is not None:
        found.append(judge_replays(by_replays(scores, problem, (test, as_measure(measure)), removals)))
    settings = influence.settings
    if settings.curvature is not None:
        found += [judge_solves(scores), judge_training(scores)]
        if settings.curvature.damping == settings.curvature.relative == 0:
            found.append((0, "no damping was needed"))
        else:
            table = _sensitivity(problem, settings, scores, (test, measure), factors)
            found.append(judge_damping(table))
    if not found:
        found.append((1, "nothing was replayed: how far the derivatives hold is unknown"))
    levels: tuple[Level, ...] = ("trust", "trust the ranking only", "do not trust")
    worst = max(level for level, _ in found)
    found.sort(key=lambda item: -item[0])
    return Trust(levels[worst], tuple(reason for _, reason in found if reason), table)


def judge_solves(scores: Scores) -> tuple[int, str]:
    """How grave the largest relative residual of the solves is: 0, 1 (the ranking only) or 2, and the reason."""
    residual = 0.0 if scores.residual is None else float(scores.residual.max())
    level = 2 if residual > NOISE else 1 if residual > LOOSE else 0
    return level, f"{'solved' if level == 0 else 'solved badly'}: {scores.verdict}"


def judge_replays(replayed: Replayed) -> tuple[int, str]:
    """How grave it is that effects do not hold in replays, and why: a ranking that does not (2), or sizes (1)."""
    rank, miss = replayed.rank, replayed.miss
    level = 2 if not rank >= UNSTABLE else 1 if rank < SHAKY or miss > MISSED else 0
    scores = replayed.scores
    assert scores.errors is not None
    clear = float((scores.effect().abs() > 2 * scores.errors).double().mean())
    said = f"{replayed.said}; {clear:.0%} of the effects stand out of their error bars"
    if level == 0:
        return level, f"smooth: {said}"
    return level, f"training is not smooth in the weights: {said}{HELPS}"


def judge_training(scores: Scores) -> tuple[int, str]:
    """How grave the drift is, held against the largest effects: 2 where it exceeds most of them; and the reason.

    Where the model is not at the optimum of its training data at all, that is the reason, without regard to the drift.
    The reason is empty where none of the effects that a user looks at lies below the drift.
    """
    if away := scores.provenance.get("away"):
        return 2, far_away(away)
    if scores.drift is None:
        return 0, ""
    share = below_drift(scores.effect(), scores.drift)
    level = 0 if share == 0 else 2 if share > 0.5 else 1
    return level, unfinished(scores.measure, scores.drift, scores.effect())


def _sensitivity(
    problem: Objective,
    settings: Settings,
    scores: Scores,
    asked: tuple[Any, MeasureLike | None],
    factors: Sequence[float],
) -> pd.DataFrame:
    """The table of `Trust.sensitivity`.

    Args:
        problem: what is asked about.
        settings: the curvature and the solver in use.
        scores: the scores with these.
        asked: the test rows and the measure.
        factors: multiples of the damping.
    """
    curvature, rows = settings.curvature, {}
    for factor in factors:
        damping = factor * (curvature.damping or curvature.relative)
        other = Influence(problem, curvature=curvature.scaled(factor), solver=settings.solver)
        try:
            values = other.on_loss(asked[0], measure=asked[1]).values
        except InfluenceError:
            rows[damping] = (math.nan,) * 3
            continue
        ranks = [float(stats.spearmanr(a, b).statistic) for a, b in zip(values, scores.values, strict=True)]
        size = float(values.norm() / scores.values.norm())
        rows[damping] = (min(ranks), float(torch.tensor(ranks).median()), size)
    return pd.DataFrame.from_dict(
        rows, orient="index", columns=["rank correlation", "median", "size"]
    ).rename_axis("damping" if curvature.damping else "relative damping")


def judge_damping(table: pd.DataFrame) -> tuple[int, str]:
    """How grave it is that scores change with the damping, from the table of `Trust.sensitivity`; and the reason.

    A ranking that changes is graver (2) than sizes that change, or less damping that gives no answer (1).
    """
    known = table.dropna()
    if known.empty:
        return 2, "no other damping gives an answer: how much hangs on it is unknown"
    lowest = float(known["rank correlation"].min())
    sizes = [*known["size"], 1.0]
    spread = max(sizes) / min(sizes)
    over = f"over the damping from {known.index.min():.1e} to {known.index.max():.1e}"
    if lowest < UNSTABLE:
        return 2, f"the ranking hangs on the damping: rank correlation down to {lowest:.2f} {over}"
    if len(known) < len(table):
        return 1, "less damping leaves negative curvature: the size of the scores hangs on the damping"
    if lowest < SHAKY or spread > SIZE:
        return (
            1,
            f"sizes hang on the damping: rank correlation {lowest:.2f} or more, sizes within {spread:.1f}x, {over}",
        )
    return 0, f"stable: rank correlation {lowest:.2f} or more, sizes within {spread:.1f}x, {over}"
