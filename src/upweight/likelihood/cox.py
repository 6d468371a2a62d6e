"""Cox's partial likelihood, with the ties of Efron: every row is in the risk sets of others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .likelihood import Likelihood


class Stratum(NamedTuple):
    """The rows of a stratum, latest first, and its d events: what is known of them beforehand."""

    rows: Int[Tensor, " r"]
    last: Int[Tensor, " d"]
    """The place in `rows` up to which rows are at risk at each event."""
    events: Int[Tensor, " d"]
    group: Int[Tensor, " d"]
    """Which events have the same time."""
    share: Float[Tensor, " d"]
    """k / d for the k-th of d events of a time: how much of the tied events is gone."""
    ties: Float[Tensor, " g"]
    """How many events each time has."""


@dataclass(frozen=True, eq=False)
class PartialLikelihood(Likelihood):
    """Minus Cox's log partial likelihood, ties as Efron has them, weights as R and lifelines have them.

    For a time with events D and the rows at risk R it is m sum_{k < d} log(sum_R w e^eta - (k / d) sum_D w e^eta) less
    sum_D w eta, where m is the mean weight of D. `y` (n, 3) has times, events (0 or 1) and numbers of strata.
    """

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n 3"]
    rows_apart = False

    @property
    def layout(self) -> Layout:
        return Layout(("weight",), ((1, self.X.shape[1]),))

    @cached_property
    def strata(self) -> list[Stratum]:
        """The strata that have events."""
        found = []
        for stratum in self.y[:, 2].unique():
            rows = (self.y[:, 2] == stratum).nonzero()[:, 0]
            rows = rows[self.y[rows, 0].argsort(descending=True, stable=True)]
            time, events = self.y[rows, 0], rows[self.y[rows, 1] > 0]
            if not len(events):
                continue
            _, group, ties = self.y[events, 0].unique_consecutive(return_inverse=True, return_counts=True)
            start = torch.cat([ties.new_zeros(1), ties.cumsum(0)[:-1]])
            place = (torch.arange(len(events)) - start[group]).double()
            last = torch.searchsorted(-time, -self.y[events, 0], right=True) - 1
            found.append(Stratum(rows, last, events, group, place / ties[group], ties.double()))
        return found

    def total(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        eta = (self.X - self.X.mean(0)) @ theta
        found = eta.new_zeros(())
        for rows, last, events, group, share, ties in self.strata:
            top = eta[rows].detach().max()  # no overflow: it cancels between the two terms
            risk = weights * (eta - top).exp()
            tied = torch.zeros_like(ties).index_add(0, group, risk[events])
            weight = torch.zeros_like(ties).index_add(0, group, weights[events]) / ties
            inside = risk[rows].cumsum(0)[last] - share * tied[group]
            found = found + weight[group] @ inside.log() - weights[events] @ (eta[events] - top)
        return found

    def losses(self, theta: Tensor, X: Float[Tensor, "b d"], y: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        raise ValueError(
            "a row of Cox's model has no loss of its own, it is in the risk sets of others: ask with "
            "measure=uw.measures.prediction (the log hazard ratio), uw.OfParameters or uw.Overall"
        )

    def outputs(self, theta: Tensor, X: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        return (X @ theta)[:, None]

    def take(self, index: Int[Tensor, " b"]) -> PartialLikelihood:
        return PartialLikelihood(self.X[index], self.y[index])

    @property
    def spread(self) -> Float[Tensor, " p"]:
        return self.X.var(
            0
        )  # lifelines penalises the coefficients of covariates over their standard deviation
