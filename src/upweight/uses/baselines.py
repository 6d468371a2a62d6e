"""What a user would find without influence: the rows nearest to the one in question, and those of highest loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..data.design import Design
from ..objective import LinearModel
from ..types import Tensor

BLOCK = 4096
"""Rows whose distances are taken at once."""
LITTLE = 0.8
"""The share of rows that a baseline finds as well, from which on influence adds little to it."""


@dataclass(frozen=True)
class Baselines:
    """How many of the rows that influence names simpler rankings name as well.

    `shown` rows were looked for among as many of the `nearest` to the test row and of the highest `loss`; `chance` is
    how many a random choice would have.
    """

    shown: int
    nearest: int
    loss: int
    chance: float

    def __str__(self) -> str:
        said = (
            f"Of these {self.shown} rows, {self.nearest} are among the {self.shown} nearest to the row in question and "
            f"{self.loss} among the {self.shown} of highest loss (by chance {self.chance:.2g})"
        )
        best = max(self.nearest, self.loss)
        return f"{said}{': influence adds little to that' if best >= LITTLE * self.shown else ''}."


def baselines(model: LinearModel, test: Design, rows: Tensor) -> Baselines:
    """The rows that influence names, beside the nearest ones (columns scaled to a deviation of 1) and the worst fitted.

    Args:
        model: the linear model.
        test: the row in question, prepared (1, d).
        rows: the numbers of the rows named, without repetition.
    """
    k = len(rows)
    near = (-distances(model, test)).topk(k).indices
    worst = model.train_losses().topk(k).indices
    nearest, loss = (int(torch.isin(rows, other).sum()) for other in (near, worst))
    return Baselines(k, nearest, loss, chance=k * k / model.n)


def distances(model: LinearModel, test: Design) -> Float[Tensor, " n"]:
    """The squared distance of each training row from a test row, columns scaled to a standard deviation of 1.

    Columns that never vary do not count. Two passes over X, as the model sees it.
    """
    here = test.block(slice(None), torch.float64).dense()[0]
    sums, squares = torch.zeros_like(here), torch.zeros_like(here)
    for _, block in model.design.blocks(BLOCK, torch.float64):
        away = block.dense() - here
        sums += away.sum(0)
        squares += away.square().sum(0)
    spread = (squares / model.n - (sums / model.n).square()).clamp(min=0)
    scale = torch.where(spread > 1e-12 * squares / model.n, 1 / spread, 0.0)
    parts = [
        (block.dense() - here).square() @ scale for _, block in model.design.blocks(BLOCK, torch.float64)
    ]
    return torch.cat(parts)
