"""Proofs that no set of so many rows or groups changes a conclusion: docs/certificates.md, whose numbers stand here."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float

from ..errors import NotConvergedError
from ..linalg.subset_bounds import Bounds, subset_bounds
from ..linalg.units import Units
from ..linear.whitened import is_least_squares
from ..objective import LinearModel
from ..runtime.progress import track
from ..types import Tensor
from .conclusions import Moments
from .joint_certificates import JointCertificate
from .removals import Question, without

MOST = 256
"""The largest number of rows or groups that a certificate is tried for."""
MEMORY = 1 << 28
"""Bytes that a certificate may take, unless said otherwise."""
TOUCHES = 1e-9
"""The share of a direction that counts as nothing."""
TURNS = 50
"""Steps by which the largest change of an output is bounded more tightly."""
ENUMERATED = 200
"""Rows that are refitted without at most, one by one, where the bound clears none."""
ROUNDING = 1e-9
"""The share that is added to bounds for what rounding may have taken off."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """The number of units that no set can undercut, and what limits it, in a sentence or "".

    It is a proof about the fitted model, not a search: sets of that many units or fewer keep the conclusion.
    """

    certified: int
    limit: str


def provable(problem: LinearModel) -> str:
    """Why there is no certificate for a model, in a sentence that says what to do; "" where there is one.

    There is one for least squares, and losses whose third derivative is at most the second: logistic regression, and
    Poisson, Gamma, Tweedie and negative binomial regression with log link, with one output and a penalty that stays.
    """
    squares = problem.c == 1 and (is_least_squares(problem) or problem.loss.self_concordant)
    if not squares:
        return (
            "robustness is for least squares with one output (OLS, WLS, ridge), logistic regression of two classes and "
            "Poisson, Gamma, Tweedie and negative binomial regression with log link, "
            f"not {type(problem.loss).__name__} with {problem.c} outputs: for one decision of another classifier ask "
            "flip_set"
        )
    if bool((problem.l2 > 0).any()) and (problem.keep == "mean" or problem.scales is not None):
        return (
            "with a penalty, removed rows must leave its total as it is: make the problem with "
            'keep="total", and without columns that are scaled anew in every retraining'
        )
    if problem.penalty.slope is not None or problem.counts is not None:
        return (
            "robustness is not for an l1 penalty, nor for class weights that follow the classes: what is left of the "
            "model changes with the rows"
        )
    return ""


def certificate(question: Question, names: pd.Index, most: int, memory: int = MEMORY) -> Certificate:
    """The largest k up to `most` for which no set of k units or fewer changes the conclusion, as far as is proven.

    Args:
        question: the conclusion and what can be removed.
        names: what the units are called.
        most: the largest set that is tried.
        memory: bytes that it may take.
    """
    grouped = any(len(rows) > 1 for rows in question.units)
    units = Units.of(question.whole.rows, question.units if grouped else None)
    z = question.side * (question.whole.rows @ question.direction)
    touched = units.alone & (units.turned(z).abs() > TOUCHES * question.direction.norm())
    if bool(touched.any()):
        who = ", ".join(str(names[int(g)]) for g in units.owner[touched].unique()[:5])
        return Certificate(
            0, f"The data without {who} alone do not determine it: no certificate can be given."
        )
    if most < 1:
        return Certificate(0, "")
    bounds = MomentBounds(question, units, z, min(most, MOST), memory // 8)
    margins = question.asked.margin(bounds.worst)
    fails = (~(margins > 0)).nonzero()
    certified = int(fails[0]) if len(fails) else len(margins)
    together = JointCertificate.of(question, units)
    if together is not None and (further := together.beyond(certified, most)) > certified:
        return Certificate(further, "" if further == most else _reached(units, names, further))
    return Certificate(certified, _limit(units, names, bounds, certified))


def doubtful_rows(question: Question) -> list[int]:
    """The rows of a model with curvature that (12) and (13) do not clear each by itself: those to be enumerated.

    Of one row i the numbers are its own: h_i in the place of the largest share, z_i r_i / (1 - h_i) of the Newton step.
    """
    whole, direction = question.whole, question.direction
    left = 1 - whole.rows.square().sum(1)
    left = torch.where(left > TOUCHES, left, torch.nan)
    z, r = question.side * (whole.rows @ direction), whole.residual
    pull = float(whole.pull.norm()) / left.sqrt()
    decrement = r.abs() * ((1 - left) / left).sqrt() + pull
    size = (direction.square().sum() + z.square() / left).sqrt()
    reach = float(whole.spread.norm(dim=1).max()) / left.sqrt() * decrement
    far = -torch.log1p(-reach)
    change = _middle(far.nan_to_num(torch.inf)) * ((z * r / left).clamp(min=0) + size * pull)
    change = (change + far / 2 * size * decrement) * (1 + ROUNDING)
    holds = change < question.moments().estimate  # NaN does not hold
    return (~holds).nonzero()[:, 0].tolist()


def by_single_refits(
    problem: LinearModel, question: Question, names: pd.Index, proof: Certificate
) -> Certificate:
    """One row at a time, by refits of those that their own bound does not clear; as it was where they are too many.

    Args:
        problem: the model.
        question: the conclusion, about removals of single rows.
        names: what the rows are called.
        proof: what is proven without refits.
    """
    rows = doubtful_rows(question)
    if len(rows) > ENUMERATED:
        return proof
    for row in track(rows, "refitting without single rows", len(rows)):
        try:
            there = without(problem, question, [row])
        except NotConvergedError:
            return Certificate(0, f"Without {names[row]} alone the model has no optimum.")
        if not float(there.margin(there.moments())) > 0:
            return Certificate(0, f"Without {names[row]} alone it does not hold, as a refit shows.")
    who = ", ".join(map(str, names[rows[:5]])) + ", ..." * (len(rows) > 5)
    words = (
        f"One row is certified with refits of {len(rows)} that the bound does not clear ({who}); no more is."
    )
    return Certificate(1, words)


class MomentBounds:
    """The bounds of one question: how far each of its moments can go by the removal of 1 to `most` units."""

    def __init__(self, question: Question, units: Units, z: Tensor, most: int, numbers: int) -> None:
        self.question, self.units, self.numbers = question, units, numbers
        self.most = min(most, units.count)
        self.left, self.right = units.scaled(z), units.scaled(question.whole.residual)
        # The bound of a sign alone is held against the estimate: no more is looked at than decides that.
        plain = not (question.curved or question.asked.uses_error)
        target = float(question.moments().estimate) if plain else torch.inf
        self.newton = self._of(self.left, self.right, self.left * self.right, target=target)
        self.change = self._curved() if question.curved else self.newton.change

    def _of(
        self,
        left: Tensor,
        right: Tensor,
        single: Tensor,
        beside: float | Tensor = 0.0,
        target: float = torch.inf,
    ) -> Bounds:
        summed, title = (
            self.units.summed(single) + beside,
            f"proving what few of {self.units.count:,} cannot do",
        )
        return subset_bounds(
            self.units,
            (left, right),
            summed,
            self.most,
            numbers=self.numbers,
            target=target,
            watch=lambda blocks, total: track(blocks, title, total),
        )

    @property
    def worst(self) -> Moments:
        """Moments (k,) as bad as k units can make them, each by itself: (10)."""
        question, now = self.question, self.question.moments()
        more = less = torch.zeros(self.most, dtype=torch.float64)
        counted = torch.stack([question.whole.counted[rows].sum() for rows in question.units])
        counted = counted - self.units.summed(self.units.alone.double())
        if question.asked.uses_error:
            residual = question.whole.residual
            outside = torch.stack([residual[rows].square().sum() for rows in question.units])
            outside = outside - self.units.summed(self.units.turned(residual).square())
            more = self._of(self.left, self.left, self.left.square()).change
            less = self._of(self.right, self.right, self.right.square(), outside.clamp(min=0)).change
        gone = [counted.topk(self.most, largest=first).values.cumsum(0) for first in (True, False)]
        estimate = now.estimate - self.change
        wide = Moments(estimate, now.variance + more, now.squares.expand(self.most), now.freedom - gone[0])
        squares = (now.squares - less).clamp(min=0)
        narrow = Moments(estimate, now.variance.expand(self.most), squares, now.freedom - gone[1])
        # Which way errors make it worse is the conclusion's own: the worse of both stands.
        margins = [question.asked.margin(moments) for moments in (wide, narrow)]
        worse = ~(margins[0] > margins[1])
        return Moments(*(torch.where(worse, a, b) for a, b in zip(wide, narrow, strict=True)))

    def _curved(self) -> Float[Tensor, " k"]:
        """The change of a model whose curvature moves with its parameters: (11) to (15), (26) and (27)."""
        question, whole, own = self.question, self.question.whole, self.units.own
        variance = self._of(self.left, self.left, self.left.square()).change
        size = (question.direction.square().sum() + variance).sqrt()
        squares = self._of(self.right, self.right, self.right.square() * own).change
        inverse = self.newton.inverse / (1 - float(own[~self.units.alone].max()))  # of I - C_T
        left = float(whole.pull.norm()) * inverse.sqrt()
        decrement = squares.clamp(min=0).sqrt() + left
        widest = float(whole.spread.norm(dim=1).max())
        reach = widest * inverse.sqrt()
        first = reach * decrement  # (12)
        far = torch.where(first < 1, -torch.log1p(-first.clamp(max=1 - 1e-15)), torch.inf)
        share = (1 - 1 / inverse) * inverse.sqrt()
        step = self._steps() + widest * share * decrement + left * reach  # (14)
        far = torch.minimum(far, _farthest(step, first))  # (26)
        asked, any_row = self._bends()
        bend = inverse * (asked + (variance.clamp(min=0) * (inverse - 1)).sqrt() * any_row)  # (27)
        for _ in range(TURNS):
            mean = _middle(far) * step + far / 2 * first  # (15)
            beyond = (
                step + inverse.square() * widest * any_row * _beyond(far) * decrement.square()
            )  # (27) of x_j
            far = torch.minimum(far, torch.minimum(mean, beyond))
        newton = self.newton.change.clamp(min=0) + size * left
        change = _middle(far) * newton + far / 2 * size * decrement  # (13)
        change = torch.minimum(change, newton + bend * _beyond(far) * decrement.square())
        return torch.where(far.isfinite(), change * (1 + ROUNDING), torch.inf)

    def _bends(self) -> tuple[Tensor, Tensor]:
        """The largest eigenvalues of sum_j s_j x~_j^T x~_j: for s_j = |v . x^_j|, and for s_j = ||x^_j||: (27)."""
        whole = self.question.whole
        each = ((whole.spread @ self.question.direction).abs(), whole.spread.norm(dim=1))
        found = [torch.linalg.eigvalsh((whole.rows * s[:, None]).T @ whole.rows)[-1] for s in each]
        return found[0] * (1 + ROUNDING), found[1] * (1 + ROUNDING)

    def _steps(self) -> Float[Tensor, " k"]:
        """max_j top_k |x^_j . sum_g x~_i r_i|: how far the outputs of the first step's gradient move, (14)."""
        whole, found = self.question.whole, torch.zeros(self.most, dtype=torch.float64)
        pulls = whole.rows * whole.residual[:, None]
        if not self.units.single:
            pulls = torch.stack([pulls[rows].sum(0) for rows in self.question.units])
        for part in whole.spread.split(max(1, self.numbers // (4 * len(pulls)))):
            top = (part @ pulls.T).abs().topk(self.most, dim=1).values.cumsum(1)
            found = torch.maximum(found, top.amax(0))
        return found


def _middle(far: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """(R/2) coth(R/2), 1 at R = 0: the middle of R / (e^R - 1) and R / (1 - e^-R); infinite where R is."""
    half = (far / 2).clamp(min=1e-6)  # it rises in R
    return torch.where(far.isfinite(), half / half.clamp(max=1e3).tanh(), torch.inf)


def _beyond(far: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """(e^R - 1 - R) / (1 - e^-R)^2, 1/2 at R = 0: what (27) has of the largest change of an output; it rises in R."""
    R = far.clamp(min=1e-3, max=500.0)
    return torch.where(far < 500, (R.expm1() - R) / torch.expm1(-R).square(), torch.inf)


def _farthest(step: Float[Tensor, " k"], reach: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The largest change of an output on the way to the minimum without a set, (26); infinite where none is proven.

    Args:
        step: the bound of (14).
        reach: the widest row times the norm of the pull.
    """
    fast, slow = ((reach + step) / 2).sqrt(), ((reach - step) / 2).sqrt()
    left = (fast - slow) / (fast + slow) * (2 * fast * slow).exp()
    far = (slow / fast * (1 + left) / (1 - left)).log() * (1 + ROUNDING) + 1e-12
    told = (left < 1) & (step < reach * (1 - 1e-9))  # else (12) says as much
    return torch.where(told, far, torch.inf)


def _limit(units: Units, names: pd.Index, bounds: MomentBounds, certified: int) -> str:
    """What stands in the way of one more, in a sentence."""
    if certified >= bounds.most:
        return f"More than {certified} were not tried." if certified == MOST else ""
    if not torch.isfinite(bounds.change[certified]):
        return (
            f"The certificate ends at {certified}: {certified + 1} of them may carry all of some direction of the "
            f"parameters. Largest leverages: {_heaviest(units, names)}."
        )
    return _reached(units, names, certified)


def _reached(units: Units, names: pd.Index, certified: int) -> str:
    """What stands in the way of one more where the bound of more is known, in a sentence."""
    return (
        f"The certificate ends at {certified}, where its bound reaches the estimate. Largest leverages: "
        f"{_heaviest(units, names)}."
    )


def _heaviest(units: Units, names: pd.Index) -> str:
    """The units of largest leverage, with it, in words."""
    own = units.summed(units.own)
    heavy = own.topk(min(3, len(own)))
    return ", ".join(
        f"{names[int(g)]} ({float(h):.2f})" for g, h in zip(heavy.indices, heavy.values, strict=True)
    )
