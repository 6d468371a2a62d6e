"""The scores that boosting starts from, as functions of the weighted mean of its targets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float

from ..types import Tensor


class Start(ABC):
    """Where boosting starts: a score for each output, from the weighted mean of numbers (n, c).

    These are the targets, or 0 and 1: whether a row is of the class.
    """

    @abstractmethod
    def value(self, mean: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
        """The start scores where the weighted means of the numbers are those."""

    @abstractmethod
    def slopes(self, mean: Float[Tensor, " c"], moves: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        """How the start scores move as the means do, in b ways."""


@dataclass(frozen=True)
class Fixed(Start):
    """Numbers that were given, whatever the data.

    >>> Fixed((0.5,)).value(torch.ones(1))
    tensor([0.5000])
    """

    scores: tuple[float, ...]

    def value(self, mean: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
        return torch.tensor(self.scores).to(mean)

    def slopes(self, mean: Float[Tensor, " c"], moves: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        return torch.zeros_like(moves)


@dataclass(frozen=True)
class FromMean(Start):
    """The mean itself, its logarithm or its logit; or "step": 4 (mean - 1/2), one Newton step from 0 towards its logit.

    `centred` takes the mean over the outputs away, as some libraries do with the shares of classes.

    >>> FromMean("log").value(torch.tensor([2.0])).exp()
    tensor([2.])
    """

    link: str = "identity"
    centred: bool = False

    def value(self, mean: Float[Tensor, " c"]) -> Float[Tensor, " c"]:
        found = {
            "identity": lambda: mean.clone(),
            "log": mean.log,
            "logit": mean.logit,
            "step": lambda: 4 * (mean - 0.5),
        }[self.link]()
        return found - found.mean() if self.centred else found

    def slopes(self, mean: Float[Tensor, " c"], moves: Float[Tensor, "b c"]) -> Float[Tensor, "b c"]:
        slope = {
            "identity": lambda: torch.ones_like(mean),
            "log": lambda: 1 / mean,
            "logit": lambda: 1 / (mean * (1 - mean)),
            "step": lambda: torch.full_like(mean, 4.0),
        }[self.link]()
        found = moves * slope
        return found - found.mean(1, keepdim=True) if self.centred else found
