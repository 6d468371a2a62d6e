"""Truth by refitting: training examples are removed, the model is retrained, predictions are held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from scipy import stats

from ..influence.recomputed import changes_without
from ..influence.scores import Scores
from ..influence.shown import SHOWN
from ..influence.unrolled import Answers
from ..measures import Measure, MeasureLike, as_measure
from ..objective import Objective
from ..retraining import Refits
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .refits import Refit, against_estimator, measured_refits, whole_pipeline

RESAMPLES = 999
"""Bootstrap samples behind each interval."""
ROUGH = 0.5
"""The relative error up to which an explanation holds at least roughly."""
OTHER = 0.1
"""The relative difference from which on the user's estimator is trained otherwise than it was read."""

Numbers: TypeAlias = Sequence[float] | np.ndarray | pd.Series
"""One number per removal."""


@dataclass(frozen=True)
class Agreement:
    """How well predictions (x) agree with retraining (y) over one group of removals.

    `slope` is that of the least-squares line of actual on predicted, 1 where sizes are right; `relative_error` is
    ||x - y|| / ||y||. `interval` holds 95 % percentile bootstrap intervals of all four. A correlation alone says
    nothing about sizes: look at all of them.
    """

    count: int
    pearson: float
    spearman: float
    slope: float
    relative_error: float
    interval: dict[str, tuple[float, float]]

    def __str__(self) -> str:
        low, high = self.interval["pearson"]
        return (
            f"{self.count} removals: Pearson {self.pearson:.4f} [{low:.4f}, {high:.4f}], Spearman {self.spearman:.4f}, "
            f"slope {self.slope:.4f}, relative L2 error {self.relative_error:.2%}"
        )


@dataclass(frozen=True)
class Verification:
    """Predicted and actual changes of each test measure, with `top` and `random` removals judged apart.

    `table` has a line per test row and removal: test row and train row (their ids where they have some), group,
    predicted, actual, gradient norm (of the refit's own objective; NaN for a user-given refit). `actual` is NaN where a
    refit has no optimum, and such a line is not counted. `complete` is False after Ctrl-C: what was finished is kept.
    """

    table: pd.DataFrame
    top: Agreement
    random: Agreement | None
    complete: bool = True
    estimator: float | None = None
    """||refits here - refits of the user's estimator|| / ||the latter|| over a few rows; None where there is none."""
    measure: str = "loss"
    """What was asked about."""
    ceiling: Agreement | None = None
    """Of trees: how well leaf values computed anew agree. No formula that holds the splits fixed does better."""
    derivative: Agreement | None = None
    """Of trees: how well effects of first order agree."""
    whole: Agreement | None = None
    """Predictions of the largest effects against refits of the whole pipeline, where they were asked for."""

    @property
    def judgement(self) -> str:
        """Whether the explanation holds, in a few words, by the numbers of the largest effects.

        It holds from a Pearson correlation of 0.99 and a relative error of at most 10 %, roughly from 0.9 and 50 %;
        from 0.9 alone its ranking holds.
        """
        pearson, error = self.top.pearson, self.top.relative_error
        if error == 0 or (pearson >= 0.99 and error <= 0.1):  # changes that are all 0 have no correlation
            return "The explanation holds"
        if pearson >= 0.9:
            return (
                "The explanation holds roughly" if error <= ROUGH else "The ranking holds, the sizes do not"
            )
        return "The explanation does not hold"

    def shortcoming(self, most: float = ROUGH) -> str:
        """Why this is no confirmation, in a sentence: "" where predictions are off by at most `most` of their size.

        Neither is what was interrupted, nor what the user's own estimator, fitted again, contradicts.
        """
        reasons = []
        if not self.top.relative_error <= most:
            reasons.append(
                f"the predictions of the {self.top.count} largest effects are off by "
                f"{100 * self.top.relative_error:.3g}% of the changes by retraining, more than {100 * most:g}%"
            )
        if self.estimator is not None and not self.estimator < OTHER:
            reasons.append(f"your estimator, fitted again, changes otherwise, by {self.estimator:.0%}")
        if not self.complete:
            reasons.append("not all of the refits were finished")
        ranked = " The ranking holds." if self.judgement.startswith("The ranking") else ""
        return f"not confirmed by retraining: {'; '.join(reasons)}.{ranked}" if reasons else ""

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return as_html(*str(self).splitlines(), self.table)

    def __str__(self) -> str:
        lines = [f"most influential: {self.top}"]
        if self.random is not None:
            lines.append(f"random control:   {self.random}")
        if self.derivative is not None:
            lines.append(f"by the derivative: {self.derivative}")
        if self.ceiling is not None:
            lines.append(
                f"leaves refitted:  {self.ceiling}; what is left comes from trees that split otherwise"
            )
        if self.whole is not None:
            known = self.table.dropna(subset=["actual", "whole pipeline"])
            held, whole = known["actual"].to_numpy(), known["whole pipeline"].to_numpy()
            cost = float(_relative_error(held, whole))
            lines += [
                f"whole pipeline:   {self.whole}",
                f"what is held fixed costs {cost:.1%}: so far are refits that hold it from those of the whole pipeline",
            ]
        if self.estimator is not None:
            lines.append(f"your estimator, fitted again without a few of them: {_words(self.estimator)}")
        lost = self.table["actual"].isna()
        if lost.any():
            rows = self.table.loc[lost, "train row"].unique()
            lines.append(
                f"not counted: without {_some(rows)} there is no optimum to train to (separable data without a penalty)"
            )
        if not self.complete:
            lines.append("interrupted: only the finished refits are counted")
        return plain("\n".join(lines))


def verify(
    influence: Answers | Refits,
    test: Any,
    *,
    k: int = 50,
    random: int | None = None,
    measure: MeasureLike | None = None,
    refit: Refit | None = None,
    seed: int = 0,
    tolerance: float | None = None,
    own: int = 3,
    first_order: bool = False,
    pipeline: bool = False,
) -> Verification:
    """The judge of influence: removes single training examples, retrains, and compares with the predictions (R15).

    Predictions are those of `Influence.of_each_removal`, as they are shown: of a linear model by Newton steps.
    Removed are the k examples of largest predicted effect on each test row, and random ones. The baseline is a refit
    with nothing removed, so that what training would have done anyway does not count. Linear problems are refitted
    here, many at a time. Ctrl-C keeps what is finished.

    Args:
        influence: whose predictions are judged.
        test: m test examples, as the problem takes them.
        k: examples of largest effect for each test row, >= 1.
        random: random examples, the same for all test rows; default k.
        measure: what is asked about, default the loss.
        refit: for models that are not linear: trains on the kept rows (an index tensor) and returns the parameters, a
            flat (p,) tensor or a module.
        seed: of the random examples and of the bootstrap.
        tolerance: the gradient norm to which linear problems are refitted; None: 1e-8 of what one example contributes
            to the gradient, whatever the units of columns and targets.
        own: rows without which a problem of `from_estimator` has the user's own estimator fitted again as well, its
            transformers too: where its changes are others, it was read wrongly, stopped early, or its transformers
            learn from the targets.
        first_order: whether effects of first order (Eq. 2) are judged, not those that `explain` shows.
        pipeline: whether a problem of `from_estimator` has the user's own pipeline fitted again without every row that
            is removed, transformers and all: `table` gets a column "whole pipeline" beside "actual", whose refits hold
            fixed what predictions hold fixed, and it is said what that costs.

    Raises:
        TypeError: for answers of `by_refitting`, which are refits themselves.
        ValueError: for k < 1, a missing `refit`, and fewer than two finished refits.
        NotConvergedError: where a refit misses the tolerance.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X = torch.linspace(-1, 1, 30, dtype=torch.float64)[:, None]
    >>> influence = Influence(LinearProblem.fit(X, X[:, 0].sin() + 0.1, loss=Squared(), l2=0.1))
    >>> verify(influence, (X[:1], X[:1, 0]), k=5).top.pearson > 0.99
    True
    """
    if (formulas := influence.formulas) is None:
        raise TypeError(
            "answers of by_refitting are retrained already: there is nothing to verify; their standard errors and "
            "remarks say how sure they are"
        )
    influence, problem = formulas, formulas.problem
    random = k if random is None else random
    if k < 1 or random < 0:
        raise ValueError(f"k must be >= 1 and random >= 0, got k = {k}, random = {random}")
    k = min(k, problem.n - 1)
    shuffled = torch.randperm(problem.n, generator=torch.Generator().manual_seed(seed))
    control = shuffled[: min(random, problem.n - 1)]
    shown: dict[str, Any] = {} if first_order else {"top": max(k, SHOWN), "rows": control}
    scores = (influence.on_loss if first_order else influence.of_each_removal)(test, measure=measure, **shown)
    predicted = scores.removal_effect()
    top = predicted.abs().nan_to_num(0).topk(k, dim=1).indices
    removed = torch.unique(torch.cat([top.flatten(), control]))
    asked = as_measure(measure)
    measured, norms, complete = measured_refits(
        problem, test, asked, removed, refit=refit, tolerance=tolerance
    )
    position = {int(row): j for j, row in enumerate(removed.tolist())}
    by_estimator = None
    if refit is None and (problem.linear is not None or problem.reduced is not None):
        places = [
            j
            for row in top[0].tolist()
            if (j := position[row]) < len(measured) and measured[j].isfinite().all()
        ][:own]
        by_estimator = against_estimator(problem, test, asked, removed[places], measured[places])
    columns = {"actual": measured, "gradient norm": norms[:, None].expand_as(measured)}
    columns |= _beside(problem, scores, (test, asked), removed[: len(measured)], pipeline)
    lines = []
    for t in range(len(predicted)):
        for group, rows in (("top", top[t]), ("random", control)):
            for row in rows.tolist():
                if (j := position[row]) < len(measured):
                    found = [float(values[j, t]) for values in columns.values()]
                    lines.append((t, row, group, float(predicted[t, row]), *found))
    table = pd.DataFrame(lines, columns=["test row", "train row", "group", "predicted", *columns])
    for column, ids in (("train row", scores.ids), ("test row", scores.test_ids)):
        if ids is not None:
            table[column] = ids.take(table[column])
    groups = {group: part for group, part in table.dropna(subset="actual").groupby("group") if len(part) >= 2}
    if "top" not in groups:
        raise ValueError("fewer than two refits were finished and have an optimum: nothing to compare")
    return Verification(
        table,
        agreement(groups["top"]["predicted"], groups["top"]["actual"], seed),
        agreement(groups["random"]["predicted"], groups["random"]["actual"], seed)
        if "random" in groups
        else None,
        complete,
        by_estimator,
        scores.measure,
        whole=_against_pipeline(table, seed) if pipeline else None,
        **(_of_leaves(groups["top"], seed) if problem.stages else {}),
    )


def _against_pipeline(table: pd.DataFrame, seed: int) -> Agreement:
    """The predictions of the largest effects against refits of the whole pipeline."""
    known = table[table["group"] == "top"].dropna(subset=["whole pipeline", "predicted"])
    return agreement(known["predicted"], known["whole pipeline"], seed)


def _of_leaves(top: pd.DataFrame, seed: int) -> dict[str, Agreement]:
    """How well leaf values computed anew agree, and effects of first order, over the largest effects."""
    columns = {"ceiling": "recomputed", "derivative": "first order"}
    return {field: agreement(top[name], top["actual"], seed) for field, name in columns.items()}


def _beside(
    problem: Objective, scores: Scores, asked: tuple[Any, Measure | None], removed: Tensor, pipeline: bool
) -> dict[str, Tensor]:
    """What stands beside the refits in the table: changes (r, m) of the whole pipeline; of trees in two ways.

    Args:
        problem: what was trained.
        scores: the predictions; effects that are not those of first order are leaf values computed anew already.
        asked: m test examples and what is measured, None for the loss.
        removed: r training rows, each removed alone.
        pipeline: whether the whole pipeline is refitted.
    """
    found = {"whole pipeline": whole_pipeline(problem, *asked, removed)} if pipeline else {}
    if problem.stages is not None:
        first = scores.values[:, removed] * (-1 / scores.n)
        anew = scores.removal_effect()[:, removed].clone()
        still = (anew == first).any(0).nonzero()[:, 0]
        if len(still):
            rows = list(removed[still].split(1))
            anew[:, still] = changes_without(problem, problem.stages, rows, *asked)
        found |= {"first order": first.T, "recomputed": anew.T}
    return found


def _some(rows: np.ndarray) -> str:
    """Rows in words, the first few of many."""
    shown = ", ".join(map(str, rows[:5]))
    return f"{'row' if len(rows) == 1 else 'rows'} {shown}" + (
        f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    )


def _words(error: float) -> str:
    return f"its changes are those of these refits to {error:.1%}" + (
        ""
        if error < OTHER
        else ": another training than the one that is explained (tol, random_state, transformers that are fitted again)"
    )


def agreement(predicted: Numbers, actual: Numbers, seed: int = 0) -> Agreement:
    """Pearson, Spearman, slope and relative L2 error of predicted against actual changes, with bootstrap intervals.

    A number that is not defined (all predictions equal, say) is NaN.

    Args:
        predicted: the predicted changes, (count,).
        actual: the changes by retraining, (count,).
        seed: of the bootstrap.

    >>> agreement([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]).slope
    1.0
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
    ranks_x, ranks_y = stats.rankdata(x), stats.rankdata(y)
    chosen = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    samples = {
        "pearson": _pearson(x[chosen], y[chosen]),
        "spearman": _pearson(ranks_x[chosen], ranks_y[chosen]),
        "slope": _slope(x[chosen], y[chosen]),
        "relative_error": _relative_error(x[chosen], y[chosen]),
    }
    interval = {
        name: (float(np.nanquantile(values, 0.025)), float(np.nanquantile(values, 0.975)))
        if np.isfinite(values).any()
        else (np.nan, np.nan)
        for name, values in samples.items()
    }
    return Agreement(
        len(x),
        float(_pearson(x, y)),
        float(_pearson(ranks_x, ranks_y)),
        float(_slope(x, y)),
        float(_relative_error(x, y)),
        interval,
    )


def _centred(x: np.ndarray) -> np.ndarray:
    """Each sample (a row) less its mean."""
    return x - x.mean(-1, keepdims=True)


def _divide(a: np.ndarray | np.floating, b: np.ndarray | np.floating) -> np.ndarray:
    """A / b, NaN where b is not positive."""
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx, dy = _centred(x), _centred(y)
    return _divide((dx * dy).sum(-1), np.sqrt((dx**2).sum(-1) * (dy**2).sum(-1)))


def _slope(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    dx = _centred(x)
    return _divide((dx * y).sum(-1), (dx**2).sum(-1))


def _relative_error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    off = np.sqrt(((x - y) ** 2).sum(-1))
    return np.where(off == 0, 0.0, _divide(off, np.sqrt((y**2).sum(-1))))
