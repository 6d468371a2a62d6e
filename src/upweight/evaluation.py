"""Judges of any attribution by retraining: linear datamodeling score, counterfactual removals, wrong labels found.

Scores stand in the sign of `Scores.values`: the derivative of a measure as a training example is up-weighted. The
correlation with leave-one-out retraining is `verify`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from scipy import stats

from .influence.scores import Scores
from .runtime.distributed import alone, gather_objects, shard
from .runtime.fingerprint import content_hash
from .runtime.trainings import Training, trained
from .types import ArrayLike, Tensor, as_tensor

RESAMPLES = 1000
"""Draws of a bootstrap."""
Outcome: TypeAlias = Callable[[Tensor, int], ArrayLike]
"""Trains on the rows kept (k,) with a seed, and gives the measures (m,) of the model."""


@dataclass(frozen=True, eq=False)
class LDS:
    """Linear datamodeling score (Park et al., 2023): how well summed scores rank the outcomes of retraining.

    Attributes:
        per_test: the Spearman correlation over subsets for each test example (m,), between -1 and 1.
        value: their mean.
        interval: a 95 % bootstrap interval of the mean over test examples.
        ceiling: what a perfect prediction of the expected outcome would reach on outcomes this noisy, from the
            agreement of repeated trainings; None where every subset was trained on once.
    """

    per_test: Float[Tensor, " m"]
    value: float
    interval: tuple[float, float]
    ceiling: float | None

    def __repr__(self) -> str:
        low, high = self.interval
        limit = "" if self.ceiling is None else f", noise ceiling {self.ceiling:.3f}"
        return f"LDS {self.value:.3f} [{low:.3f}, {high:.3f}] over {len(self.per_test)} test examples{limit}"


def random_subsets(n: int, count: int, *, share: float = 0.5, seed: int = 0) -> Bool[Tensor, "s n"]:
    """Draw random subsets of the training rows to retrain on, each of round(share n) rows.

    Args:
        n: the number of training rows.
        count: the number of subsets s.
        share: how much of the rows each one keeps, between 0 and 1.
        seed: what they are drawn from.

    Returns:
        Masks (s, n), True for the rows kept.

    >>> random_subsets(4, 3).sum(1)
    tensor([2, 2, 2])
    """
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(count, n, generator=generator).argsort(1)[:, : round(share * n)]
    return torch.zeros(count, n, dtype=torch.bool).scatter_(1, kept, True)


def retrained(
    outcome: Outcome,
    subsets: Bool[Tensor, "s n"],
    *,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
) -> Float[Tensor, "s r m"]:
    """Train on every subset with every seed, and return what became of the measures.

    Several processes (torchrun) share the trainings, each on its own.

    Args:
        outcome: `outcome(kept rows, seed)` trains a model on those rows and returns its measures (m,), losses of test
            examples say.
        subsets: masks (s, n) of the rows kept, as `random_subsets` draws them.
        seeds: r of them: as many trainings of every subset.
        folder: where each result is kept as soon as it is finished, and found by the next run, so that nothing is lost
            on interruption. Use one folder per experiment: a file is found by its rows and seed alone.

    Returns:
        The measures (s, r, m), float64.

    >>> retrained(lambda kept, seed: [float(len(kept))], random_subsets(4, 2)).shape
    torch.Size([2, 1, 1])
    """
    names = ((mask, seed, content_hash([mask])) for mask in subsets for seed in seeds)
    wanted = [Training(mask.nonzero()[:, 0], seed, f"{name}-{seed}") for mask, seed, name in names]

    def one(kept: Tensor, seed: int) -> Tensor:
        with alone():
            return as_tensor(outcome(kept, seed)).double().flatten()

    found = list(trained(one, wanted[shard(len(wanted))], folder=folder))
    everyone = [result for part in gather_objects(found) for result in part]
    return torch.stack(everyone).view(len(subsets), len(seeds), -1)


def lds(scores: Scores | ArrayLike, subsets: ArrayLike, outcomes: ArrayLike, *, seed: int = 0) -> LDS:
    """Judge an attribution: does the sum of the scores of the rows kept rank the outcomes of retraining?

    Args:
        scores: `Scores` of the measures that were retrained for, or an array (m, n) of the same sign, whose scale does
            not matter.
        subsets: masks (s, n) of the rows kept.
        outcomes: what `retrained` returned for them, (s, r, m).
        seed: of the bootstrap.

    Raises:
        ValueError: where shapes do not fit or scores are not finite, and for scores of the strongest rows alone.

    >>> subsets = random_subsets(6, 20)
    >>> truth = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    >>> outcomes = (subsets.double() @ truth.T)[:, None]
    >>> round(lds(truth, subsets, outcomes).value, 6)
    1.0
    """
    subsets, outcomes = as_tensor(subsets).bool(), as_tensor(outcomes).double()
    effects = _removal_effects(scores)
    if effects.shape != (outcomes.shape[2], subsets.shape[1]):
        raise ValueError(
            f"scores must have shape (m, n) = ({outcomes.shape[2]}, {subsets.shape[1]}), got {tuple(effects.shape)}"
        )
    if len(subsets) != len(outcomes):
        raise ValueError(f"{len(subsets)} subsets and {len(outcomes)} outcomes")
    # The scores of the rows kept sum to those of all rows less those of the rows removed: the same ranks.
    per_test = _spearman(_predicted(effects, subsets), outcomes.mean(1))
    interval = _interval(per_test[None], seed)
    return LDS(torch.from_numpy(per_test), float(per_test.mean()), interval, _ceiling(outcomes))


def _removal_effects(scores: Scores | ArrayLike) -> Float[Tensor, "m n"]:
    """-I/n of `Scores` or of an array in their sign, checked."""
    if isinstance(scores, Scores):
        if scores.columns is not None:
            raise ValueError("these scores kept only the strongest rows: compute them without top=")
        effects = scores.removal_effect().double()
    else:
        values = as_tensor(scores).double()
        if values.ndim != 2:
            raise ValueError(f"scores must have shape (m, n), got {tuple(values.shape)}")
        effects = -values / values.shape[1]
    bad = (~effects.isfinite()).nonzero()
    if len(bad):
        raise ValueError(
            "scores have a NaN or infinity, first in test row {}, training row {}".format(*bad[0].tolist())
        )
    return effects


def _predicted(effects: Float[Tensor, "m n"], subsets: Bool[Tensor, "s n"]) -> Float[Tensor, "s m"]:
    """The change of each measure by what each subset lacks: the sum of the removal effects."""
    return (~subsets).double() @ effects.T


def _interval(values: Float[np.ndarray, "d m"], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean: test examples m are drawn anew, and the repetitions d of each."""
    generator = np.random.default_rng(seed)
    tests = generator.integers(values.shape[1], size=(RESAMPLES, values.shape[1]))
    repetitions = generator.integers(len(values), size=(RESAMPLES, len(values)))
    means = [values[np.ix_(d, m)].mean() for d, m in zip(repetitions, tests, strict=True)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def _ceiling(outcomes: Float[Tensor, "s r m"]) -> float | None:
    """Sqrt of the reliability of the mean over r trainings, from the correlation of its halves (Spearman-Brown)."""
    r = outcomes.shape[1]
    if r < 2:
        return None
    halves = _spearman(outcomes[:, : r // 2].mean(1), outcomes[:, r // 2 : 2 * (r // 2)].mean(1))
    between = np.clip(halves, 0, 1)
    ratio = r / (r // 2)
    return float(np.sqrt(ratio * between / (1 + (ratio - 1) * between)).mean())


def _spearman(a: Tensor, b: Tensor) -> np.ndarray:
    """The rank correlation of every column of a (s, m) with that of b."""
    x, y = (stats.zscore(stats.rankdata(part.numpy(), axis=0), axis=0) for part in (a, b))
    return np.nan_to_num((x * y).mean(0))


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """What became of each test measure without the rows that should matter most to it, beside rows at random.

    Positive = the measure rose. Scores that know better than chance have `top` above `random`.

    Attributes:
        table: two lines per number of removed rows, group `top` and group `random`: `predicted`, the sum of the removal
            effects, and `actual`, the change by retraining, both means over test rows (and draws) in the measure's
            unit, with a 95 % bootstrap interval (`low`, `high`) of the actual mean.
        top: the changes of each test row without its own rows, (k, m) for k numbers of removed rows.
        random: the changes without random rows, (k, d, m) for d draws.
    """

    table: pd.DataFrame
    top: Float[Tensor, "k m"]
    random: Float[Tensor, "k d m"]

    def __repr__(self) -> str:
        return (
            f"Counterfactual: mean change of {self.top.shape[1]} test measures, positive = it rose\n"
            f"{self.table.to_string(index=False)}"
        )


def counterfactual(
    scores: Scores | ArrayLike,
    outcome: Outcome,
    *,
    sizes: Sequence[int],
    draws: int = 10,
    seeds: Sequence[int] = (0,),
    folder: str | Path | None = None,
    seed: int = 0,
) -> Counterfactual:
    """Remove the k rows of largest removal effect -I/n on each test row, retrain; do the same for k random rows.

    This is the counterfactual (or brittleness) evaluation of attributions (Ilyas et al., 2022). Changes are against a
    training on all rows, by the same code. It takes 1 + len(sizes) (m + draws) trainings for each of `seeds`: choose
    few test rows.

    Args:
        scores: `Scores`, or an array (m, n) of the same sign.
        outcome: `outcome(kept rows, seed)` trains and returns the m measures, as in `retrained`.
        sizes: the numbers k of rows to remove.
        draws: how many sets of k random rows are removed.
        seeds: of the trainings, whose outcomes are averaged.
        folder: where outcomes are kept, as in `retrained`.
        seed: what the random rows and the bootstrap are drawn from.

    Raises:
        ValueError: for k < 1 or k >= n, fewer than one draw, scores that are not finite or not (m, n), and an outcome
            of other than m measures (after one training).

    >>> y = torch.tensor([0.0, 1.0, 4.0, 7.0]).double()  # the model is their mean, 3
    >>> found = counterfactual((y - y.mean())[None], lambda kept, seed: [y[kept].mean()], sizes=[1, 2])
    >>> found.top[:, 0]  # the mean is 4 without the 0, 5.5 without the 1 as well
    tensor([1.0000, 2.5000], dtype=torch.float64)
    """
    effects = _removal_effects(scores)
    m, n = effects.shape
    _check_sizes(sizes, n, draws)
    everything = torch.ones(1, n, dtype=torch.bool)
    baseline = retrained(outcome, everything, seeds=seeds, folder=folder).mean(1)
    if baseline.shape[1] != m:
        raise ValueError(f"scores of {m} test rows, but the outcome has {baseline.shape[1]} measures")
    subsets = torch.cat([_removals(effects, k, draws, seed) for k in sizes])
    actual = retrained(outcome, subsets, seeds=seeds, folder=folder).mean(1) - baseline
    found = _by_group(actual.view(len(sizes), m + draws, m))
    expected = _by_group(_predicted(effects, subsets).view(len(sizes), m + draws, m))
    lines = [
        (k, group, float(expected[group][j].mean()), float(part[j].mean()), *_interval(part[j].numpy(), seed))
        for j, k in enumerate(sizes)
        for group, part in found.items()
    ]
    table = pd.DataFrame(lines, columns=["rows removed", "group", "predicted", "actual", "low", "high"])
    return Counterfactual(table, found["top"][:, 0], found["random"])


def _check_sizes(sizes: Sequence[int], n: int, draws: int) -> None:
    if not len(sizes) or draws < 1:
        raise ValueError(f"need sizes and at least one draw, got sizes = {list(sizes)}, draws = {draws}")
    for k in sizes:
        if not 1 <= k < n:
            raise ValueError(f"sizes must be >= 1 and leave one of the {n} training rows, got {k}")


def _removals(effects: Float[Tensor, "m n"], k: int, draws: int, seed: int) -> Bool[Tensor, "s n"]:
    """Masks without the k rows of largest effect on each test row, then masks without k random rows."""
    n = effects.shape[1]
    top = torch.ones(effects.shape, dtype=torch.bool).scatter_(1, effects.topk(k, dim=1).indices, False)
    return torch.cat([top, random_subsets(n, draws, share=1 - k / n, seed=seed)])


def _by_group(changes: Float[Tensor, "k s m"]) -> dict[str, Float[Tensor, "k _ m"]]:
    """Each test row's own set counts for it alone, random sets for all."""
    m = changes.shape[2]
    own = changes[:, :m].diagonal(dim1=1, dim2=2)
    return {"top": own[:, None], "random": changes[:, m:]}


@dataclass(frozen=True)
class Detection:
    """How well a ranking finds wrong labels.

    Attributes:
        auc: the area under the ROC curve: the chance that a wrong row stands before a right one, 0.5 for a random
            order.
        recall_10: the share of the wrong rows that are found among the first 10 % of all rows.
        recall_20: among the first 20 %.
    """

    auc: float
    recall_10: float
    recall_20: float


def detection(suspicion: ArrayLike, wrong: ArrayLike) -> Detection:
    """Judge an order in which labels are inspected against the rows that truly are wrong (R25).

    Args:
        suspicion: one number per training row (n,), large = suspicious: self-influence, say.
        wrong: whether the row's label is wrong, (n,).

    Raises:
        ValueError: for unequal lengths, and where all rows are of one kind.

    >>> detection([0.9, 0.1, 0.8, 0.2], [True, False, False, False])
    Detection(auc=1.0, recall_10=1.0, recall_20=1.0)
    """
    x, bad = np.asarray(suspicion, dtype=float).ravel(), np.asarray(wrong, dtype=bool).ravel()
    if x.shape != bad.shape or not 0 < bad.sum() < len(bad):
        raise ValueError(
            f"need one suspicion per row and both kinds of rows, got {len(x)} suspicions and {int(bad.sum())} wrong "
            f"of {len(bad)}"
        )
    auc = stats.mannwhitneyu(x[bad], x[~bad]).statistic / (bad.sum() * (~bad).sum())
    order = np.argsort(-x, kind="stable")
    recall = [float(bad[order[: max(1, round(share * len(x)))]].sum() / bad.sum()) for share in (0.1, 0.2)]
    return Detection(float(auc), *recall)
