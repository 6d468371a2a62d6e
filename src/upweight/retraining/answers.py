"""What refits answer beside scores: changes without whole sets, and rows as models say them that have not seen them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from ..runtime.notebook import as_html
from ..runtime.terminal import plain
from ..types import Tensor


@dataclass(frozen=True, eq=False)
class RemovalByRefits:
    """Changes (m, g) of m test measures as each of g sets of training rows is removed, by retraining.

    Positive = the measure rises. `error` are standard errors over random states, 0 where these change nothing; `noise`
    (m,) is how much the measure moves by another random state alone. After Ctrl-C, or when the time was over, it has
    the sets that were finished.
    """

    groups: pd.Index
    sizes: Int[Tensor, " g"]
    change: Float[Tensor, "m g"]
    error: Float[Tensor, "m g"]
    measure: str
    noise: Float[Tensor, " m"]
    remarks: tuple[str, ...] = ()
    """How often it was trained, and how the changes compare with the noise of the seed."""

    def to_frame(self) -> pd.DataFrame:
        """A table with a line per test row and group: size, change, standard error."""
        m, g = self.change.shape
        return pd.DataFrame(
            {
                "test row": np.repeat(np.arange(m), g),
                "group": np.tile(self.groups.to_numpy(), m),
                "size": np.tile(self.sizes.numpy(), m),
                "change": self.change.flatten().numpy(),
                "standard error": self.error.flatten().numpy(),
            }
        )

    def __repr__(self) -> str:
        head = (
            f"Change of the {self.measure} by refits without {len(self.groups)} groups (positive = it rises)"
        )
        return plain("\n".join([head, self.to_frame().head(10).to_string(index=False), *self.remarks]))

    def _repr_html_(self) -> str:
        head = f"Change of the {self.measure} by refits; positive = it rises."
        return as_html(head, self.to_frame(), *self.remarks)


@dataclass(frozen=True, eq=False)
class OutOfBag:
    """Each training row as models say it that were trained on random subsets without it.

    `loss` (n,) is the mean of the row's loss over them, `error` its standard error, `said` (n, c) what they say on
    average: probabilities (of two classes that of the second), outputs where there are none. NaN of rows that were in
    every subset.
    """

    loss: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    said: Float[Tensor, "n c"]
    count: Int[Tensor, " n"]
    """The models behind each row."""

    @classmethod
    def of(
        cls,
        outputs: Float[Tensor, "s n c"],
        losses: Float[Tensor, "s n"],
        unseen: Bool[Tensor, "s n"],
        likelihood: bool,
    ) -> OutOfBag:
        """The means over the models that have not seen a row.

        Args:
            outputs: of s models for the training rows.
            losses: of these.
            unseen: which model has not seen which row, and did not fail.
            likelihood: whether outputs are those of probabilities.
        """
        if likelihood:
            outputs = outputs.sigmoid() if outputs.shape[2] == 1 else outputs.softmax(2)
        count = unseen.sum(0)
        mean = torch.where(unseen, losses, 0).sum(0) / count
        squares = torch.where(unseen, losses - mean, 0).square().sum(0)
        said = torch.where(unseen[:, :, None], outputs, 0).sum(0) / count[:, None]
        return cls(mean, (squares / (count - 1) / count).sqrt(), said, count)

    def decided(self, likelihood: bool) -> Int[Tensor, " n"]:
        """The class, 0..c-1, that is likeliest on average; of one output the second one above 1/2 (above 0)."""
        if self.said.shape[1] == 1:
            return (self.said[:, 0] > (0.5 if likelihood else 0)).long()
        return self.said.argmax(1)
