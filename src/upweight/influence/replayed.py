"""How far effects hold when training is replayed without some rows: an error bar for each, and what the misses are."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..capabilities import Replays
from ..data.names import called
from ..measures import Measure
from ..objective import Objective
from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor
from .scores import Scores

REMOVALS = 24
"""Rows that are removed, half and whole, where nobody says how many."""
FEWEST = 19
"""Of fewer replayed rows nothing says where 95 % of the misses end."""
STATED = 0.95
"""The share of removals that effects, give or take two standard errors, hold."""
RATIOS = torch.cat([torch.zeros(1), torch.logspace(-3, 3, 61)]).double()
"""Tried shares of an effect, against the typical one, in the spread of the misses."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """What replays without some rows say about effects.

    `scores` are all effects with an error bar: give or take two of its `errors`, an effect holds in 95 % of removals.
    That is judged by rows drawn evenly over the ranks of the effects, so that each kind of row is among them.

    `metasmoothness` tells whether the trained parameters go on in one direction along single removals: the mean over
    rows of sum_j |d_j| sign(d_j) sign(e_j) / sum_j |d_j|, where d is how the parameters move as the weight of the row
    goes from 1 to 1/2, and e as it goes from 1/2 to 0. It is 1 where all keep their directions, about 0 where the first
    half says nothing about the signs of the second, and -1 where all turn back.

    `table` has a line per replayed row and test row: "predicted", the effect; "half" and "actual", the change as the
    weight is 1/2 and 0; "error", actual less predicted.
    """

    scores: Scores
    metasmoothness: float
    table: pd.DataFrame
    noise: float = 0.0
    """How far a replay of the whole run, among the others, moves any test row: what rounding does, no removal."""

    @property
    def rank(self) -> float:
        """The rank correlation of predicted and actual effects, the mean over test rows."""
        each = self.table.groupby("test row")[["predicted", "actual"]]
        return float(each.corr("spearman")["actual"].xs("predicted", level=1).mean())

    @property
    def miss(self) -> float:
        """The size of the errors as a share of the size of the actual effects (root mean squares over test rows)."""
        squares = (self.table[["error", "actual"]] ** 2).groupby(self.table["test row"]).mean()
        return float((squares["error"] / squares["actual"]).mean() ** 0.5)

    @property
    def bend(self) -> float:
        """The share of the squared errors that is bend, 0 to 1: the rest are kinks and noise.

        A smooth curve has a quarter of its error where the weight is 1/2, so that its second difference, actual less
        twice half, is half the error. What is measured is how far four times the error at 1/2 foresees that at 0.
        """
        foreseen = 4 * (self.table["half"] - self.table["predicted"] / 2)
        whole = float((self.table["error"] ** 2).sum())
        left = float(((self.table["error"] - foreseen) ** 2).sum())
        return max(0.0, 1 - left / whole) if whole else 1.0

    @property
    def said(self) -> str:
        """What the replays say, in a sentence."""
        rows = self.table["train row"].nunique()
        return (
            f"{rows} rows removed and training replayed: rank correlation {self.rank:.2f} with the predictions, errors "
            f"{self.miss:.0%} of the effects ({self.bend:.0%} of them bend, the rest kinks and noise), metasmoothness "
            f"{self.metasmoothness:.2f}; rounding moves a replay by up to {self.noise:.1e}"
        )

    def __repr__(self) -> str:
        return plain(f"{self.said}\n{self.table.to_string(index=False)}")

    def _repr_html_(self) -> str:
        return as_html(self.said, self.table)


def by_replays(
    scores: Scores,
    problem: Objective,
    asked: tuple[Any, Measure | None],
    removals: int = REMOVALS,
    seed: int = 0,
) -> Replayed:
    """Effects with error bars from replays of a recorded training.

    Args:
        scores: of all training rows; their effects are judged.
        problem: a trained model whose training was recorded.
        asked: the test rows and the measure.
        removals: rows that are replayed with half their weight and with none, at least 19.
        seed: which rows are drawn.

    Raises:
        ValueError: for too few rows, for scores of the strongest alone, and for models whose training was not recorded.
    """
    replays, effect = problem.replays, scores.effect()
    if replays is None:
        raise ValueError("replays need a recorded training: ask about the `problem` of a TrainingRun")
    if scores.columns is not None:
        raise ValueError("these scores kept only the strongest rows: compute them without top=")
    if removals < FEWEST:
        raise ValueError(
            f"removals must be at least {FEWEST} to say where 95 % of the errors end, got {removals}"
        )
    rows = drawn(effect, min(removals, problem.n), seed)
    (half, whole), smooth, noise = _ends(replays, problem, asked, rows)
    predicted = effect[:, rows]
    errors = error_bars(effect, predicted, whole - predicted)
    m, k = whole.shape
    table = pd.DataFrame(
        {
            "test row": called(torch.arange(m).repeat_interleave(k).numpy(), scores.test_ids),
            "train row": called(rows.repeat(m).numpy(), scores.ids),
            "predicted": predicted.flatten().numpy(),
            "half": half.flatten().numpy(),
            "actual": whole.flatten().numpy(),
            "error": (whole - predicted).flatten().numpy(),
        }
    )
    return Replayed(replace(scores, errors=errors), smooth, table, noise)


def drawn(effect: Float[Tensor, "m n"], k: int, seed: int) -> Int[Tensor, " k"]:
    """One row out of each of k equal parts of all rows, ordered by the size of their effects.

    Args:
        effect: of all rows.
        k: how many are drawn.
        seed: which.
    """
    order = effect.square().mean(0).argsort(descending=True)
    n = len(order)
    edges = torch.linspace(0, n, k + 1, dtype=torch.float64)
    share = torch.rand(k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return order[(edges[:-1] + share * (edges[1:] - edges[:-1])).long().clamp(max=n - 1)]


def _ends(
    replays: Replays, problem: Objective, asked: tuple[Any, Measure | None], rows: Tensor
) -> tuple[tuple[Tensor, Tensor], float, float]:
    """Changes (m, k) with half of each row's weight and with none, the metasmoothness, and what rounding does."""
    weights = torch.ones(2 * len(rows) + 1, problem.n, dtype=problem.theta.dtype, device=problem.device)
    every = torch.arange(len(rows))
    weights[2 * every, rows], weights[2 * every + 1, rows] = 0.5, 0.0
    before, changes, agreed = problem.evaluate(*asked).double().cpu(), list[Tensor](), list[float]()
    half = problem.theta
    for number, after in enumerate(replays.weighted(weights)):
        changes.append(after.evaluate(*asked).double().cpu() - before)
        if number % 2:
            first, second = half - problem.theta, after.theta - half
            size = float(first.abs().sum())
            agreed.append(float((first.abs() * first.sign() * second.sign()).sum()) / size if size else 1.0)
        half = after.theta
    found = torch.stack(changes, dim=1)
    noise, found = float(found[:, -1].abs().max()), found[:, :-1]
    return (found[:, ::2], found[:, 1::2]), float(torch.tensor(agreed).mean()), noise


def error_bars(
    effect: Float[Tensor, "m n"], predicted: Float[Tensor, "m k"], error: Float[Tensor, "m k"]
) -> Float[Tensor, "m n"]:
    """The standard error of each effect, from the errors of some: s^2 = a^2 + (b effect)^2, for each test row.

    The ratio of a and b is the likeliest one; their size is such that effects give or take 2 s hold 95 % of further
    removals (the quantile of errors over s that does so for any distribution).

    Args:
        effect: of all rows.
        predicted: of those that were replayed.
        error: what their replays gave, less that.
    """
    k = predicted.shape[1]
    typical = predicted.square().mean(1, keepdim=True).sqrt().clamp(min=1e-300)
    shapes = (1 + (RATIOS[:, None, None] * (predicted / typical)).square()).sqrt()  # (tried, m, k)
    scale = (error / shapes).square().mean(2, keepdim=True).sqrt().clamp(min=1e-300)
    worse = (scale * shapes).log().sum(2)
    best = RATIOS[worse.argmin(0)][:, None]
    shape = (1 + (best * (predicted / typical)).square()).sqrt()
    place = min(k, math.ceil((k + 1) * STATED)) - 1
    widest = (error.abs() / shape).sort(1).values[:, place, None]
    return widest / 2 * (1 + (best * (effect / typical)).square()).sqrt()
