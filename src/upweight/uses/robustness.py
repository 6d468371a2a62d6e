"""How many training rows would have to go before a conclusion changes, and a proof that fewer cannot do it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from ..data.row_sets import as_sets
from ..estimators.refitting import WRITTEN_OUT
from ..influence.unrolled import Answers
from ..linear.whitened import Whitened, is_least_squares
from ..objective import LinearModel, Objective
from ..runtime.terminal import plain
from ..types import Tensor
from .certificates import MEMORY, by_single_refits, certificate, provable
from .conclusions import Conclusion, Sign
from .labels import row_names
from .relabelling import check_box, fewest_relabelled, relabelled_model
from .removals import Question, fewest, fewest_refitted, first_order, without
from .searches import check_no_penalty, no_proof, search_of, side_of
from .standard_errors import Errors
from .weighted_fit import WeightedFit

EXACT = 1e-24
"""The share of squares that are left for residuals below which a fit is exact."""


@dataclass(frozen=True, eq=False)
class Robustness:
    """How fragile a conclusion is: what was found to change it, and what is proven not to.

    No set of `certified` or fewer units (rows, or groups) changes the conclusion, whatever they are: a proof
    (docs/certificates.md), not a search. `found` units do, as a refit without them confirmed, `rows` their row numbers
    and `names` what they are called; None where the search found none. Where found = certified + 1 the set is a
    smallest one (`smallest`). `first_order` is the count that sums of single influences give, as AMIP has it: no refit
    confirms it, None where they never reach.

    `estimate` is the number now, `after` with the found units removed, `error` and `error_after` are their standard
    errors: those of the conclusion, else the classical ones of least squares, None where there are none. `limit` says
    why no more is certified.

    Where labels change (`relabel`, from the lowest to the highest), read "get the new `labels`" for "are removed".
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
    error: float | None = None
    error_after: float | None = None
    relabel: tuple[float, float] | None = None
    labels: Tensor | None = None

    @property
    def smallest(self) -> bool:
        """Whether the found set is proven to be as small as any: it has one unit more than are certified.

        Other sets of the same size may change the conclusion too.
        """
        return self.found is not None and self.found == self.certified + 1

    def __repr__(self) -> str:
        return plain("\n".join(self.sentences))

    def _repr_html_(self) -> str:
        from ..runtime.notebook import as_html

        return as_html(*self.sentences)

    @property
    def sentences(self) -> list[str]:
        """What was found, proven and counted by first order, a sentence each, and what limits the proof.

        The text of the answer is made of these, on a terminal and in a notebook.
        """
        whole = f"{self.conclusion[0].upper()}{self.conclusion[1:]} ({self.estimate:.4g}; {self.units:,} {self.unit}s)."
        removed, box = (
            self.relabel is None,
            "" if self.relabel is None else "{:g} to {:g}".format(*self.relabel),
        )
        labels = "" if removed else f"labels from {box} for "
        proof = (
            f"Proven: no {labels}{self.certified} of them or fewer change this."
            if self.certified
            else "Nothing is proven: already one may change this."
            * (not self.limit.endswith("nothing is proven."))
        )
        if self.found is None:
            found = (
                f"Found: no {'set whose removal changes' if removed else f'labels from {box} that change'} it, "
                "as far as was searched."
            )
        else:
            share = 100 * self.found / self.units
            names = ", ".join(map(str, self.names[:10])) + ", ..." * (len(self.names) > 10)
            how = "without" if removed else "with other labels for"
            found = (
                f"Found: {how} {self.found} of them ({share:.2g}%) it does not hold any more, the estimate is "
                f"{self.after:.4g} (refitted): {names}."
            )
            found += " No smaller set does it." if self.smallest else ""
        first = (
            f"First order (sums of single influences, not refitted): {self.first_order}."
            if self.first_order is not None
            else "First order: sums of single influences never reach."
        )
        return [
            whole,
            *([proof] if proof else []),
            found,
            *([first] if removed else []),
            *([self.limit] if self.limit and not self.smallest else []),
        ]


def robustness(
    influence: Answers,
    conclusion: Conclusion | str | int,
    *,
    groups: Any = None,
    relabel: tuple[float | int, float | int] | None = None,
    most: int | None = None,
    memory: int = MEMORY,
) -> Robustness:
    """How many training rows have to go before a conclusion changes: a set that does it, and a proof for fewer.

    The set is searched greedily, each step from the exact fit without the rows before, made smaller by exchanges, and
    confirmed by a refit. The certificate bounds the exact change a^T (A - A_T)^-1 g_T over all sets T of k rows at
    once, for every k (docs/certificates.md): what single rows do, leverage included, what every pair does, and a
    remainder. It holds for least squares, weighted and with absorbed effects, for ridge with keep="total", and for
    logistic regression, and Poisson, Gamma, Tweedie and negative binomial regression with log link, whose bound has a
    part for the curvature that moves. A set that leaves the answer undetermined (or separates the classes) counts as
    one that changes it. With instruments, for tests with robust or clustered errors, and for tests of generalised
    linear models (with `errors`), no certificate is known: the set is searched and refitted all the same. Of Cox's
    model and NegativeBinomial, whose standard errors are those of the inverse information, one row or group is
    certified by refits without each, and of signs of Cox's model with Breslow's ties, or without tied times, some more.

    Args:
        influence: of one of these models, with one output.
        conclusion: `Sign`, `Significant`, `NotReversed` or `MeanPrediction`; a column's name or number stands for the
            sign of its coefficient.
        groups: what goes together, as `Influence.of_removal` takes it: a column (n,) of villages, patients or firms.
            Every row must be in one group; None: each row by itself.
        relabel: the lowest and the highest label: rows get other labels in this box, as (0, 1), in the place of being
            removed. For signs and predictions of least squares (ridge too) alone, whose answer is exact.
        most: the largest set that is searched, default half of the rows or groups.
        memory: bytes that the certificate may take; more is faster.

    Returns:
        The numbers, and the set that was found.

    Raises:
        TypeError: for other models.
        ValueError: for a conclusion that does not hold, a coefficient that is not there, collinear columns (named),
            groups that overlap or are one, and tests with `relabel`.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.ones(9, 1), torch.tensor([1.0, 1, 1, -2, 1, 1, 1, 1, 1])
    >>> found = robustness(Influence(LinearProblem.fit(X, y, loss=Squared())), 0, most=8)
    >>> found.certified, found.found, found.smallest
    (5, 6, True)
    """
    asked = Sign(conclusion) if isinstance(conclusion, (str, int)) else conclusion
    influence.problem.check_current()
    if relabel is not None:
        return _of_labels(influence, asked, groups, most, check_box(relabel))
    if why := no_proof(influence.problem, asked):
        return _searched(influence.problem, asked, groups, most, why)
    problem = _supported(influence)
    if problem is None:
        return _of_many_effects(influence.problem, asked, groups, most, memory)
    _check_errors(problem, asked)
    names, members = _units(problem, groups)
    question = Question.of(problem, asked, members)
    _check_holds(question)
    most = min(most or len(members) // 2, len(members) - 1)
    chosen = fewest_refitted(problem, question, most) if question.curved else fewest(question, most)
    proof = certificate(question, names, len(members) if chosen is None else len(chosen) - 1, memory)
    if question.curved and groups is None and not proof.certified and (chosen is None or len(chosen) > 1):
        proof = by_single_refits(problem, question, names, proof)
    start = question.whole.value(question.gradient)
    unit = "row" if groups is None else "group"
    found = Robustness(
        asked.says.format(side=side_of(question)), len(members), unit, start, None,
        proof.certified, None, names[:0], None, first_order(question), proof.limit,
    )  # fmt: skip
    found = found if chosen is None else _confirmed(found, problem, question, (names, chosen))
    return with_errors(found, influence.problem, asked)


def _searched(problem: Objective, asked: Conclusion, groups: Any, most: int | None, why: str) -> Robustness:
    """The answer where nothing is proven: a set that was found, each step of the search a refit.

    Args:
        problem: a regression.
        asked: the conclusion.
        groups: what goes together, or None.
        most: the largest set that is searched.
        why: why nothing is proven.
    """
    names, members = _units(problem, groups)
    start = search_of(problem, asked, members)
    now = start.told()
    start = replace(start, side=-1.0 if float(now.estimate) < start.bar else 1.0)
    said = asked.says.format(side=side_of(start))
    if not 0 < start.margin() < float("inf"):
        raise ValueError(
            f"the conclusion does not hold to begin with ({said}): the estimate is {float(now.estimate):.4g}, "
            f"standard error {float(now.error):.4g}"
        )
    chosen = start.fewest(min(most or len(members) // 2, len(members) - 1))
    proof = start.proof(names, len(members) if chosen is None else len(chosen) - 1, why)
    found = Robustness(
        said, len(members), "row" if groups is None else "group", float(now.estimate), None,
        proof.certified, None, names[:0], None, start.first_order, proof.limit, float(now.error),
    )  # fmt: skip
    if chosen is None:
        return found
    rows, there = torch.cat([members[g] for g in chosen]), start.told(chosen)
    found = replace(found, after=float(there.estimate), error_after=float(there.error))
    return replace(found, found=len(chosen), names=names[chosen], rows=rows)


def _of_many_effects(
    problem: Objective, asked: Conclusion, groups: Any, most: int | None, memory: int
) -> Robustness:
    """The answer where absorbed effects have too many groups to be written out: a proof for units of whole groups.

    Of one effect the rows of a group less its means do not see other groups: removing whole groups removes these rows.

    Args:
        problem: the regression.
        asked: the conclusion.
        groups: what goes together, or None.
        most: the largest set that is searched.
        memory: bytes that the certificate may take.
    """
    why = "The effects have too many groups for a proof but of signs, by units of whole groups: nothing is proven."
    found = _searched(problem, asked, groups, most, why)
    fit = WeightedFit.of(problem)
    names, members = _units(problem, groups)
    if fit is None or asked.uses_error or not fit.whole_groups(members):
        return found
    plain = fit.within(problem)
    proof = certificate(Question.of(plain, asked, members), names, (found.found or len(members)) - 1, memory)
    return replace(found, certified=proof.certified, limit=proof.limit)


def _of_labels(
    influence: Answers, asked: Conclusion, groups: Any, most: int | None, box: tuple[float, float]
) -> Robustness:
    """The answer about new labels, which sorting gives exactly (33).

    Args:
        influence: of least squares.
        asked: the conclusion.
        groups: what goes together, or None.
        most: the largest number of units.
        box: the lowest and the highest label.
    """
    problem = relabelled_model(influence, _written_out(influence), asked)
    names, members = _units(problem, groups)
    question = Question.of(problem, asked, members)
    _check_holds(question)
    new = fewest_relabelled(problem, question, box, most or len(members))
    first = new.certified + 1 if new.certified < len(members) else None
    start = question.whole.value(question.gradient)
    found = Robustness(
        asked.says.format(side=side_of(question)), len(members), "row" if groups is None else "group", start, None,
        new.certified, None, names[:0], None, first, new.limit, relabel=box,
    )  # fmt: skip
    found = with_errors(found, problem, asked)
    if not new.units:
        return found
    after = with_errors(found, new.problem, asked).error
    found = replace(found, found=len(new.units), names=names[new.units], rows=new.rows, error_after=after)
    return replace(found, labels=new.labels, after=Whitened.of(new.problem).value(question.gradient))


def _written_out(influence: Answers) -> LinearModel | None:
    """The model as a linear one, absorbed effects as columns; None where it is none, or they are too many."""
    written = influence.problem.cache.get(WRITTEN_OUT)
    return influence.problem.linear if written is None else written()


def _supported(influence: Answers) -> LinearModel | None:
    """The model, at its optimum; None where it has too many effects for columns of their own.

    Raises TypeError or ValueError for what has no certificate.
    """
    problem = _written_out(influence)
    if problem is None and WRITTEN_OUT in influence.problem.cache:
        return None
    if problem is None:
        raise TypeError(f"robustness is for linear models, not {type(influence.problem).__name__}")
    problem.check_current()
    if words := provable(problem):
        raise (TypeError if words.startswith("robustness is for") else ValueError)(words)
    return problem if is_least_squares(problem) else problem.minimised()


def _check_errors(problem: LinearModel, asked: Conclusion) -> None:
    """Nothing happens where the conclusion needs no standard error, or there is one; else ValueError says why not."""
    if not asked.uses_error:
        return
    if not is_least_squares(problem):
        raise ValueError("significance is certified for least squares alone: ask about the sign")
    check_no_penalty(problem.l2, asked)


def _units(problem: Objective, groups: Any) -> tuple[pd.Index, list[Tensor]]:
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


def _check_holds(question: Question) -> None:
    """Nothing happens where the conclusion holds to begin with; else a ValueError says what is there."""
    asked, now = question.asked, question.moments()
    if asked.uses_error and not float(now.freedom) > 0:
        raise ValueError("no degrees of freedom are left: there are as many coefficients as rows")
    fitted = (question.whole.root @ question.whole.theta).square().sum()
    if asked.uses_error and not float(now.squares) > EXACT * float(fitted):
        raise ValueError("the model fits every row exactly: standard errors are 0 and nothing is significant")
    if not float(question.margin(now)) > 0:
        said = asked.says.format(side=side_of(question))
        error = f", standard error {float(now.error):.4g}" if asked.uses_error else ""
        raise ValueError(
            f"the conclusion does not hold to begin with ({said}): the estimate is "
            f"{question.whole.value(question.gradient):.4g}{error}"
        )


def _confirmed(
    found: Robustness, problem: LinearModel, question: Question, chosen: tuple[pd.Index, list[int]]
) -> Robustness:
    """The answer with the set that a refit confirmed; without it where the refit does not."""
    names, units = chosen
    there = without(problem, question, units)
    if not float(there.margin(there.moments())) <= 0:
        return replace(found, limit="A set was found that a refit did not confirm, by rounding.")
    rows, after = torch.cat([question.units[g] for g in units]), there.whole.value(there.gradient)
    return replace(found, after=after, found=len(units), names=names[units], rows=rows)


def with_errors(
    found: Robustness, problem: Objective, asked: Conclusion, errors: Errors | None = None
) -> Robustness:
    """The answer with the standard errors of its estimates, where the model is least squares without a penalty.

    Args:
        found: the answer.
        problem: the regression.
        asked: what it was asked.
        errors: which ones; None: those of the conclusion, else the classical ones.
    """
    fit = WeightedFit.of(problem)
    if fit is None:
        return found
    gradient, kept = asked.gradient(problem)[0], torch.ones(problem.n, dtype=torch.float64)

    def error() -> float | None:
        value = float(fit.told(gradient, kept, errors or asked.errors or Errors()).error)
        return value if math.isfinite(value) else None

    found = replace(found, error=error())
    if found.rows is None:
        return found
    kept[found.rows] = 0
    return replace(found, error_after=error())
