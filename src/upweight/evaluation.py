"""Judges of any attribution by retraining: linear datamodeling score, detection of wrong labels.

Scores stand in the sign of `Scores.values`: the derivative of a measure as a training example is up-weighted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats

from .objective import content_hash
from .progress import track
from .scores import Scores
from .types import Tensor, as_tensor

RESAMPLES = 1000
Outcome = Callable[[Tensor, int], Any]


@dataclass(frozen=True, eq=False)
class LDS:
    """Linear datamodeling score (Park et al., 2023): how well summed scores rank the outcomes of retraining.

    `per_test` (m,) is the Spearman correlation over subsets, `value` its mean, `interval` a 95 % bootstrap interval
    over test examples. `ceiling` is what a perfect prediction of the expected outcome would reach on outcomes this
    noisy, from the agreement of repeated trainings; None where every subset was trained on once.
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
    """Masks of random subsets of training rows, each of round(share n) rows.

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
    """`outcome(kept rows, seed)`, the measures (m,) of a model trained on those rows, for every subset and seed.

    With `folder` each result is kept there as soon as it is finished, and found there by the next run: nothing is lost
    on interruption. Use one folder per experiment: a file is found by its rows and seed alone.

    >>> retrained(lambda kept, seed: [float(len(kept))], random_subsets(4, 2)).shape
    torch.Size([2, 1, 1])
    """
    jobs = [(mask, seed) for mask in subsets for seed in seeds]
    found = []
    for mask, seed in track(jobs, f"training {len(jobs)} times", len(jobs)):
        place = None if folder is None else Path(folder) / f"{content_hash([mask])}-{seed}.npy"
        if place is not None and place.exists():
            found.append(as_tensor(np.load(place, allow_pickle=False)))
            continue
        result = as_tensor(outcome(mask.nonzero()[:, 0], seed)).double().flatten()
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(".part.npy")
            np.save(part, result.numpy(), allow_pickle=False)
            part.replace(place)
        found.append(result)
    return torch.stack(found).view(len(subsets), len(seeds), -1)


def lds(scores: Any, subsets: Any, outcomes: Any, *, seed: int = 0) -> LDS:
    """Score predictions by the sum of the scores of the rows kept, against what retraining gave.

    `scores` are `Scores` or an array (m, n) of the same sign, `subsets` the masks (s, n) and `outcomes` (s, r, m) what
    `retrained` returned for them. Raises ValueError where their shapes do not fit.

    >>> subsets = random_subsets(6, 20)
    >>> truth = torch.randn(2, 6, generator=torch.Generator().manual_seed(0)).double()
    >>> outcomes = (subsets.double() @ truth.T)[:, None]
    >>> round(lds(truth, subsets, outcomes).value, 6)
    1.0
    """
    subsets, outcomes = as_tensor(subsets), as_tensor(outcomes).double()
    values = as_tensor(scores.values if isinstance(scores, Scores) else scores).double()
    if values.shape != (outcomes.shape[2], subsets.shape[1]):
        raise ValueError(
            f"scores must have shape (m, n) = ({outcomes.shape[2]}, {subsets.shape[1]}), got {tuple(values.shape)}"
        )
    if len(subsets) != len(outcomes):
        raise ValueError(f"{len(subsets)} subsets and {len(outcomes)} outcomes")
    per_test = _spearman(subsets.double() @ values.T, outcomes.mean(1))
    chosen = np.random.default_rng(seed).integers(len(per_test), size=(RESAMPLES, len(per_test)))
    low, high = np.quantile(per_test[chosen].mean(1), (0.025, 0.975))
    return LDS(
        torch.from_numpy(per_test), float(per_test.mean()), (float(low), float(high)), _ceiling(outcomes)
    )


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


@dataclass(frozen=True)
class Detection:
    """How well a ranking finds wrong labels: area under the ROC curve, share found in the first 10 % and 20 %."""

    auc: float
    recall_10: float
    recall_20: float


def detection(suspicion: Any, wrong: Any) -> Detection:
    """Judge a suspicion (n,), large = suspicious, against the rows that truly are wrong (n,) bool.

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
