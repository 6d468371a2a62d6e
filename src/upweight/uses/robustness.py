"""How many training rows would have to go before a conclusion changes, and a proof that fewer cannot do it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float

from ..data.row_sets import as_sets
from ..influence.unrolled import Answers
from ..linalg.subset_bounds import Bounds, subset_bounds
from ..linalg.units import Units
from ..linear.whitened import Whitened
from ..objective import LinearModel
from ..runtime.terminal import plain
from ..types import Tensor
from .conclusions import Conclusion, Moments, Sign
from .labels import row_names
from .removals import Question, fewest

MOST = 256
"""The largest number of rows or groups that a certificate is tried for."""
MEMORY = 1 << 30
"""Bytes that a certificate may take, unless said otherwise."""
EXACT = 1e-24
"""The share of squares that are left for residuals below which a fit is exact."""
TOUCHES = 1e-9
"""The share of a direction that counts as nothing."""


@dataclass(frozen=True, eq=False)
class Robustness:
    """How fragile a conclusion is: what was found to change it, and what is proven not to.

    No set of `certified` or fewer units (rows, or groups) changes the conclusion, whatever they are: a proof
    (docs/certificates.md), not a search. `found` units do, as a refit without them confirmed, `rows` their row numbers
    and `names` what they are called; None where the search found none. Where found = certified + 1 the set is a
    smallest one (`smallest`). `first_order` is the count that sums of single influences give, as AMIP has it: no refit
    confirms it, None where they never reach.

    `estimate` is the number now, `after` with the found units removed. `limit` says why no more is certified.
    """

    conclusion: str
    units: int
    unit: str
    estimate: float
    after: float | None
    certified: int
    found: int | None
    names: pd.Index
    rows: Tensor | None
    first_order: int | None
    limit: str

    @property
    def smallest(self) -> bool:
        """Whether the found set is proven to be as small as any."""
        return self.found is not None and self.found == self.certified + 1

    def __repr__(self) -> str:
        return plain("\n".join(self.sentences))

    def _repr_html_(self) -> str:
        from ..runtime.notebook import as_html

        return as_html(*self.sentences)

    @property
    def sentences(self) -> list[str]:
        """What was found, proven and counted, a sentence each."""
        whole = f"{self.conclusion[0].upper()}{self.conclusion[1:]} ({self.estimate:.4g}; {self.units:,} {self.unit}s)."
        proof = (
            f"Proven: no {self.certified} of them or fewer change this."
            if self.certified
            else "Nothing is proven: already one may change this."
        )
        if self.found is None:
            found = "Found: no set whose removal changes it."
        else:
            share = 100 * self.found / self.units
            names = ", ".join(map(str, self.names[:10])) + ", ..." * (len(self.names) > 10)
            found = (
                f"Found: without {self.found} of them ({share:.2g}%) it does not hold any more, the estimate is "
                f"{self.after:.4g} (refitted): {names}."
            )
            found += " No smaller set does it." if self.smallest else ""
        first = (
            f"First order (sums of single influences, not refitted): {self.first_order}."
            if self.first_order is not None
            else "First order: sums of single influences never reach."
        )
        return [whole, proof, found, first, *([self.limit] if self.limit and not self.smallest else [])]


def robustness(
    influence: Answers,
    conclusion: Conclusion | str | int,
    *,
    groups: Any = None,
    most: int | None = None,
    memory: int = MEMORY,
) -> Robustness:
    """How many training rows have to go before a conclusion changes: a set that does it, and a proof for fewer.

    The set is searched greedily, each step from the exact fit without the rows before, made smaller by exchanges, and
    confirmed by a refit. The certificate bounds the exact change a^T (A - A_T)^-1 g_T over all sets T of k rows at
    once, for every k (docs/certificates.md): what single rows do, leverage included, what every pair does, and a
    remainder. It holds for least squares, weighted, and for ridge with keep="total". A set that leaves the answer
    undetermined counts as one that changes it.

    Args:
        influence: of a least squares model of one output.
        conclusion: `Sign`, `Significant`, `NotReversed` or `MeanPrediction`; a column's name or number stands for the
            sign of its coefficient.
        groups: what goes together, as `Influence.of_removal` takes it: a column (n,) of villages, patients or firms.
            Every row must be in one group; None: each row by itself.
        most: the largest set that is searched, default half of the rows or groups.
        memory: bytes that the certificate may take; more is faster.

    Returns:
        The numbers, and the set that was found.

    Raises:
        TypeError: for models that are not least squares.
        ValueError: for a conclusion that does not hold, a coefficient that is not there, collinear columns (named),
            groups that overlap or are one.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(9, 1), torch.tensor([1.0, 1, 1, -2, 1, 1, 1, 1, 1])
    >>> found = robustness(Influence(LinearProblem.fit(X, y, loss=Squared())), 0)
    >>> found.certified, found.found, found.smallest
    (6, 7, True)
    """
    problem = _least_squares(influence)
    asked = conclusion if isinstance(conclusion, Conclusion) else Sign(conclusion)
    if asked.uses_error and bool((problem.l2 > 0).any()):
        raise ValueError(
            "significance has no meaning with a penalty, which biases estimates: ask about the sign, or fit without"
        )
    gradient, bar = asked.gradient(problem)
    names, members = _units(problem, groups)
    whole = Whitened.of(problem)
    question = _question(whole, gradient, bar, members, asked)
    _check_holds(asked, question)
    chosen = fewest(question, min(most or len(members) // 2, len(members) - 1))
    limit_k = MOST if chosen is None else min(MOST, len(chosen) - 1)
    certified, limit = _certified(question, names, limit_k, (groups is not None, memory))
    first = _first_order(question)
    start = float(question.moments().estimate) * question.side + bar
    found = Robustness(
        asked.says.format(side=_side(question.side, bar)),
        len(members), "group" if groups is not None else "row",
        start, None, certified, None, names[:0], None, first, limit,
    )  # fmt: skip
    return found if chosen is None else _confirmed(found, problem, question, (names, chosen), gradient)


def _side(side: float, bar: float) -> str:
    if bar == 0:
        return "positive" if side > 0 else "negative"
    return "upper" if side > 0 else "lower"


def _question(
    whole: Whitened, gradient: Tensor, bar: float, members: list[Tensor], asked: Conclusion
) -> Question:
    direction = whole.direction(gradient)
    estimate = whole.value(gradient) - bar
    side = -1.0 if estimate < 0 else 1.0
    return Question(whole, direction, bar, side, members, asked.margin)


def _least_squares(influence: Answers) -> LinearModel:
    """The least squares problem; raises TypeError or ValueError for what has no certificate."""
    problem = influence.problem.linear
    name = type(influence.problem).__name__ if problem is None else type(problem.loss).__name__
    squares = problem is not None and problem.c == 1 and not problem.loss.classifies
    if problem is None or not squares or not torch.equal(problem.derivatives().a[:, 0], problem.weights):
        raise TypeError(
            f"robustness is for least squares with one output (OLS, WLS, ridge), not {name}: for one decision of a "
            "classifier ask flip_set"
        )
    problem.check_current()
    if bool((problem.l2 > 0).any()) and (problem.keep == "mean" or problem.scales is not None):
        raise ValueError(
            "with a penalty, removed rows must leave its total as it is: make the problem with "
            'keep="total", and without columns that are scaled anew in every retraining'
        )
    if problem.penalty.slope is not None:
        raise ValueError(
            "robustness is not for an l1 penalty: the columns that are left change with the rows"
        )
    return problem


def _units(problem: LinearModel, groups: Any) -> tuple[pd.Index, list[Tensor]]:
    """Names and rows of what is removed; raises ValueError for groups that do not share out the rows."""
    if groups is None:
        every = torch.arange(problem.n)
        return row_names(problem, every), list(every.split(1))
    names, sets = as_sets(groups, problem.n, problem.train_index)
    if len(torch.cat(sets)) != problem.n or len(torch.cat(sets).unique()) != problem.n:
        raise ValueError(
            f"groups must share out all {problem.n} rows, each in one group: give a column with the group of each row"
        )
    return names, sets


def _check_holds(asked: Conclusion, question: Question) -> None:
    """Nothing happens where the conclusion holds to begin with; else a ValueError says what is there."""
    now = question.moments()
    if asked.uses_error and not float(now.freedom) > 0:
        raise ValueError("no degrees of freedom are left: there are as many coefficients as rows")
    fitted = (question.whole.root @ question.whole.theta).square().sum()
    if asked.uses_error and not float(now.squares) > EXACT * float(fitted):
        raise ValueError("the model fits every row exactly: standard errors are 0 and nothing is significant")
    if not float(asked.margin(now)) > 0:
        said = asked.says.format(side=_side(question.side, question.bar))
        error = f", standard error {float(now.error):.4g}" if asked.uses_error else ""
        estimate = question.side * float(now.estimate) + question.bar
        raise ValueError(
            f"the conclusion does not hold to begin with ({said}): the estimate is {estimate:.4g}{error}"
        )


def _certified(question: Question, names: pd.Index, most: int, how: tuple[bool, int]) -> tuple[int, str]:
    """The number of units that no set can undercut, and what limits it."""
    grouped, memory = how
    whole, side = question.whole, question.side
    units = Units.of(whole.rows, question.units if grouped else None)
    z = side * (whole.rows @ question.direction)
    touched = units.alone & (units.turned(z).abs() > TOUCHES * question.direction.norm())
    if bool(touched.any()):
        who = ", ".join(str(names[int(g)]) for g in units.owner[touched].unique()[:5])
        return 0, f"The data without {who} alone do not determine it: no certificate can be given."
    if most < 1:
        return 0, ""
    left, right = units.scaled(z), units.scaled(whole.residual)
    outside = torch.stack([whole.residual[rows].square().sum() for rows in question.units])
    outside = outside - units.summed(units.turned(whole.residual).square())
    asked = {"change": (left, right, 0.0)}
    if float(question.margin(question.moments())) != float(question.moments().estimate):
        asked |= {"variance": (left, left, 0.0), "squares": (right, right, outside.clamp(min=0))}
    bounds = {
        name: subset_bounds(units, (a, b), units.summed(a * b) + beside, most, memory // 8)
        for name, (a, b, beside) in asked.items()
    }
    margins = question.margin(_worst(question, bounds))
    fails = (~(margins > 0)).nonzero()
    certified = int(fails[0]) if len(fails) else len(margins)
    return certified, _limit(units, names, bounds["change"], certified, most)


def _worst(question: Question, bounds: dict[str, Bounds]) -> Moments:
    """Moments (k,) as bad as k units can make them, each by itself."""
    now, change = question.moments(), bounds["change"].change
    most = len(change)
    counted = torch.stack([question.whole.counted[rows].sum() for rows in question.units])
    zero = torch.zeros(most, dtype=torch.float64)
    more = bounds["variance"].change if "variance" in bounds else zero
    less = bounds["squares"].change if "squares" in bounds else zero
    gone = counted.topk(most).values.cumsum(0), counted.topk(most, largest=False).values.cumsum(0)
    # Which way errors make it worse is the conclusion's own: the worse of both stands.
    wide = Moments(now.estimate - change, now.variance + more, now.squares + zero, now.freedom - gone[0])
    narrow = Moments(
        now.estimate - change, now.variance + zero, (now.squares - less).clamp(min=0), now.freedom - gone[1]
    )
    worse = question.margin(wide) <= question.margin(narrow)
    worse = worse | (question.margin(narrow).isnan())
    return Moments(*(torch.where(worse, a, b) for a, b in zip(wide, narrow, strict=True)))


def _limit(units: Units, names: pd.Index, bounds: Bounds, certified: int, most: int) -> str:
    """What stands in the way of one more, in a sentence."""
    if certified >= most:
        return f"More than {most} were not tried." if most == MOST else ""
    own = units.summed(units.own)
    heavy = own.topk(min(3, len(own)))
    who = ", ".join(
        f"{names[int(g)]} ({float(h):.2f})" for g, h in zip(heavy.indices, heavy.values, strict=True)
    )
    if not torch.isfinite(bounds.change[certified]):
        return (
            f"The certificate ends at {certified}: {certified + 1} of them may carry all of some direction of the "
            f"parameters. Largest leverages: {who}."
        )
    return f"The certificate ends at {certified}, where its bound reaches the estimate. Largest leverages: {who}."


def _first_order(question: Question) -> int | None:
    """How many units sums of single influences need, each a derivative in the rows' weights; None: all do not do."""
    whole, now = question.whole, question.moments()
    z, r = question.side * (whole.rows @ question.direction), whole.residual
    with torch.enable_grad():
        leaves = [x.detach().clone().requires_grad_() for x in now[:3]]
        question.margin(Moments(*leaves, now.freedom)).backward()
        slopes = [0.0 if x.grad is None else float(x.grad) for x in leaves]
    effects = -slopes[0] * z * r + slopes[1] * z * z - slopes[2] * r * r
    each = torch.stack([effects[rows].sum() for rows in question.units]).sort().values
    left = float(question.margin(now)) + each.clamp(max=0).cumsum(0)
    reached = (left <= 0).nonzero()
    return int(reached[0]) + 1 if len(reached) else None


def _confirmed(
    found: Robustness,
    problem: LinearModel,
    question: Question,
    chosen: tuple[pd.Index, list[int]],
    gradient: Float[Tensor, " p"],
) -> Robustness:
    """The answer with the set that a refit confirmed; without it where the refit does not."""
    names, units = chosen
    rows = torch.cat([question.units[g] for g in units])
    there = Whitened.of(problem.without(rows), reduced=True)
    direction = there.direction(gradient)
    again = Question(there, direction, question.bar, question.side, [], question.margin)
    if not float(question.margin(again.moments())) <= 0:
        return replace(found, limit="A set was found that a refit did not confirm, by rounding.")
    after = there.value(gradient)
    return replace(found, after=after, found=len(units), names=names[units], rows=rows)
