"""Cox's partial likelihood, with the ties of Efron or Breslow: every row is in the risk sets of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int

from ..linalg.flat_vectors import Layout
from ..types import Tensor
from .likelihood import Likelihood, RiskShares


@dataclass(frozen=True, eq=False)
class Stratum:
    """The rows of a stratum, latest first, and its d events: what is known of them beforehand."""

    rows: Int[Tensor, " r"]
    last: Int[Tensor, " d"]
    """The place in `rows` up to which rows have not left at each event."""
    entering: Int[Tensor, " e"]
    """The rows that enter so late that they miss an event, latest first."""
    missing: Int[Tensor, " d"]
    """How many of `entering` are not there yet at each event."""
    events: Int[Tensor, " d"]
    group: Int[Tensor, " d"]
    """Which events have the same time."""
    share: Float[Tensor, " d"]
    """k / d for the k-th of d events of a time: how much of the tied events is gone, as Efron has it; 0 for Breslow."""
    ties: Float[Tensor, " g"]
    """How many events each time has."""

    def at_risk(self, values: Float[Tensor, "n k"]) -> Float[Tensor, "d k"]:
        """The sums of numbers of rows over those at risk at each event, less its share of the tied events."""
        tied = values.new_zeros(len(self.ties), values.shape[1]).index_add(0, self.group, values[self.events])
        found = values[self.rows].cumsum(0)[self.last] - self.share[:, None] * tied[self.group]
        if len(self.entering):
            later = torch.nn.functional.pad(values[self.entering].cumsum(0), (0, 0, 1, 0))
            found = found - later[self.missing]
        return found

    def over_events(self, values: Float[Tensor, " d"], n: int) -> Float[Tensor, " n"]:
        """The transpose of `at_risk`: the sums of numbers of events over those at which each of n rows is at risk."""
        ending = values.new_zeros(len(self.rows)).index_add(0, self.last, values)
        found = values.new_zeros(n).index_add(0, self.rows, ending.flip(0).cumsum(0).flip(0))
        tied = torch.zeros_like(self.ties).index_add(0, self.group, self.share * values)
        found = found.index_add(0, self.events, -tied[self.group])
        if len(self.entering):
            missed = values.new_zeros(len(self.entering) + 1).index_add(0, self.missing, values)
            found = found.index_add(0, self.entering, -missed.flip(0).cumsum(0).flip(0)[1:])
        return found

    def shared(self, weights: Float[Tensor, " n"]) -> Float[Tensor, " d"]:
        """The weight of each event in the likelihood: the mean weight of the events of its time."""
        total = torch.zeros_like(self.ties).index_add(0, self.group, weights[self.events])
        return (total / self.ties)[self.group]


@dataclass(frozen=True, eq=False)
class PartialLikelihood(Likelihood):
    """Minus Cox's log partial likelihood, weights as R and lifelines have them, ties as Efron has them or Breslow.

    For a time with events D and the rows at risk R it is m sum_{k < d} log(sum_R w e^eta - (k / d) sum_D w e^eta) less
    sum_D w eta, where m is the mean weight of D; Breslow's has no k / d. `y` (n, 3) has times, events (0 or 1) and
    numbers of strata; of (n, 4) the last column has the times at which rows enter, after which they are at risk.

    Args:
        X: the covariates.
        y: times, events, strata, and times of entry.
        efron: whose ties: Efron's or Breslow's.
        standardised: whether a penalty is on the coefficients of covariates over their standard deviation.
    """

    X: Float[Tensor, "n d"]
    y: Float[Tensor, "n _"]
    efron: bool = True
    standardised: bool = True
    rows_apart = False
    scale_known = True

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
            at = self.y[events, 0]
            _, group, ties = at.unique_consecutive(return_inverse=True, return_counts=True)
            start = torch.cat([ties.new_zeros(1), ties.cumsum(0)[:-1]])
            place = (torch.arange(len(events)) - start[group]).double() * self.efron
            last = torch.searchsorted(-time, -at, right=True) - 1
            entering, missing = self._entering(rows, at)
            found.append(
                Stratum(rows, last, entering, missing, events, group, place / ties[group], ties.double())
            )
        return found

    def _entering(self, rows: Int[Tensor, " r"], at: Float[Tensor, " d"]) -> tuple[Tensor, Tensor]:
        """The rows that enter at the first event or later, latest first, and how many are not there at each."""
        if self.y.shape[1] < 4:
            return rows[:0], torch.zeros(len(at), dtype=torch.long)
        entering = rows[self.y[rows, 3] >= at.min()]
        entering = entering[self.y[entering, 3].argsort(descending=True, stable=True)]
        return entering, torch.searchsorted(-self.y[entering, 3], -at, right=True)

    def total(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        eta = (self.X - self.X.mean(0)) @ theta
        found = eta.new_zeros(())
        for stratum in self.strata:
            top = eta[stratum.rows].detach().max()  # no overflow: it cancels between the two terms
            inside = stratum.at_risk((weights * (eta - top).exp())[:, None])[:, 0]
            events, w = stratum.events, weights[stratum.events]
            found = found + stratum.shared(weights) @ inside.log() - w @ (eta[events] - top)
        return found

    def derivatives(
        self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]
    ) -> tuple[Float[Tensor, " p"], Float[Tensor, "p p"]]:
        X = self.X - self.X.mean(0)
        eta, gradient, H = X @ theta, torch.zeros_like(theta), theta.new_zeros(len(theta), len(theta))
        for stratum in self.strata:
            risk = weights * (eta - eta[stratum.rows].max()).exp()
            sums = stratum.at_risk(risk[:, None] * torch.cat([torch.ones_like(X[:, :1]), X], dim=1))
            means, m = sums[:, 1:] / sums[:, :1], stratum.shared(weights)
            share = risk * stratum.over_events(m / sums[:, 0], len(risk))
            gradient += m @ means - weights[stratum.events] @ X[stratum.events]
            H += (X.T * share) @ X - (means.T * m) @ means
        return gradient, (H + H.T) / 2

    def risk_shares(self, theta: Float[Tensor, " p"], weights: Float[Tensor, " n"]) -> RiskShares | None:
        if self.efron and any(bool((stratum.ties > 1).any()) for stratum in self.strata):
            return None  # which of tied events leaves changes what the others are compared with
        events = (self.y[:, 1] > 0).nonzero()[:, 0]
        stop, _, stratum = self.y[:, :3].T
        at_risk = (stop >= stop[events, None]) & (stratum == stratum[events, None])
        if self.y.shape[1] > 3:
            at_risk &= self.y[:, 3] < stop[events, None]
        eta = (self.X @ theta + weights.log()).where(at_risk, -torch.inf)
        return RiskShares(eta.softmax(1), events, weights[events], stratum)

    def losses(self, theta: Tensor, X: Float[Tensor, "b d"], y: Float[Tensor, "b _"]) -> Float[Tensor, " b"]:
        raise ValueError(
            "a row of Cox's model has no loss of its own, it is in the risk sets of others: ask with "
            "measure=uw.measures.prediction (the log hazard ratio), uw.OfParameters or uw.Overall"
        )

    def outputs(self, theta: Tensor, X: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
        return (X @ theta)[:, None]

    def take(self, index: Int[Tensor, " b"]) -> PartialLikelihood:
        return replace(self, X=self.X[index], y=self.y[index])

    @property
    def spread(self) -> Float[Tensor, " p"]:
        return self.X.var(0) if self.standardised else torch.ones(self.X.shape[1], dtype=self.X.dtype)
