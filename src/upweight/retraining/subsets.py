"""What random subsets of the training rows say of each row: the difference of means with and without it.

Each row is in a subset with the same probability, apart from the others, so that every training tells of every row
(maximum sample reuse: Wang & Jia, "Data Banzhaf", 2023).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from ..types import Tensor

ENOUGH = 0.8
"""The reliability that a ranking should have: the share of true differences in how much the effects differ."""


@dataclass(frozen=True, eq=False)
class Differences:
    """Means without each row less those with it.

    Attributes:
        effect: the differences (m, n) of m measures: positive = they are higher without the row.
        error: their standard errors (m, n).
        used: the number of trainings that count.
    """

    effect: Float[Tensor, "m n"]
    error: Float[Tensor, "m n"]
    used: int

    @property
    def reliability(self) -> float:
        """The share of the variance of effects over rows that is no noise of the sampling; 0 where all of it may be."""
        total = self.effect.var(1)
        noise = self.error.square().mean(1)
        return float(((total - noise) / total.clamp(min=1e-300)).clamp(min=0).mean())

    @property
    def needed(self) -> int | None:
        """About how many trainings a reliability of 0.8 takes; None where these tell too little to say so."""
        share = self.reliability
        return None if share < 0.02 else round(self.used * (1 - share) / share * ENOUGH / (1 - ENOUGH))

    def summary(self) -> str:
        """How sure the effects are, in a sentence or two."""
        far = float((self.effect.abs() > 2 * self.error).double().mean())
        said = (
            f"Standard errors are {float(self.error.median()):.2g} in the median; {far:.0%} of the effects are more "
            "than two of them from 0, where chance alone makes 5%."
        )
        if self.reliability >= 0.5:
            return said
        more = "many times more" if self.needed is None else f"about {self.needed:,}"
        return (
            f"{said} Too few refits for {self.effect.shape[1]:,} rows: most of how the effects differ is noise of the "
            f"{self.used:,} drawn subsets. A ranking to rely on takes {more} (refits=)."
        )


def drawn(n: int, count: int, share: float, seed: int) -> Bool[Tensor, "s n"]:
    """Masks of subsets that each row is in with the same probability; the first ones do not change with their number.

    Args:
        n: the number of rows.
        count: the number of subsets s.
        share: the probability.
        seed: what they are drawn from.

    Raises ValueError for a share that is not between 0 and 1.

    >>> bool((drawn(5, 2, 0.5, 0) == drawn(5, 3, 0.5, 0)[:2]).all())
    True
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be a probability between 0 and 1, got {share}")
    return torch.rand(count, n, generator=torch.Generator().manual_seed(seed)) < share


def differences(masks: Bool[Tensor, "s n"], values: Float[Tensor, "s m"]) -> Differences:
    """The difference of the means of each measure over subsets without and with each row, and its standard error.

    It is the Banzhaf value with its sign turned where subsets are drawn with probability 1/2.

    Args:
        masks: the subsets.
        values: what became of the measures after training on each; NaN of trainings that failed, which do not count.

    Raises:
        ValueError: where some row is in, or out of, fewer than two subsets that count.
    """
    known = values.isfinite().all(1)
    inside, values = masks[known].double(), values[known]
    count = inside.sum(0)
    outside = len(values) - count
    if len(values) < 4 or bool((torch.minimum(count, outside) < 2).any()):
        raise ValueError(
            f"{len(values)} refits are too few for {masks.shape[1]} rows: each row must be in two of them and out of "
            "two; give more (refits=), or more time (seconds=)"
        )
    centre = values.mean(0)
    centred = values - centre  # variances by sums of squares, without cancellation
    sums, squares = centred.T @ inside, centred.square().T @ inside
    total, total_squares = centred.sum(0)[:, None], centred.square().sum(0)[:, None]

    def moments(s: Tensor, q: Tensor, many: Int[Tensor, " n"] | Tensor) -> tuple[Tensor, Tensor]:
        mean = s / many
        return mean, ((q / many - mean.square()) / (many - 1)).clamp(min=0)

    mean_in, error_in = moments(sums, squares, count)
    mean_out, error_out = moments(total - sums, total_squares - squares, outside)
    return Differences(mean_out - mean_in, (error_in + error_out).sqrt(), len(values))
