"""Models with an l1 penalty: the columns that are not zero, and for which rows a removal leaves them the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy import sparse

from ..errors import IndefiniteError
from ..linalg.coordinates import Coordinates
from ..linalg.factorizations import CholeskyFactor
from ..linear.problem import LinearProblem
from ..losses import LinearLoss
from ..objective import LinearModel
from ..types import Keep, Tensor
from .reading import Reading
from .refitting import KINKED, STILL

CHECKED = 1 << 32
"""Operations up to which every row's removal is held against the support."""
NAMED = 10
"""How many rows a note names."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Some of the columns of X: those whose coefficients are not zero.

    Args:
        kept: their numbers, in order.
        all: how many there are.
        bound: the l1 penalty's strength on the mean loss, at which a column that is zero would come in.
        constant: the constant column of an intercept that the penalty holds at zero too; 0 where it holds none.
    """

    kept: np.ndarray
    all: int
    bound: float
    constant: float = 0.0

    @property
    def of_kernel(self) -> bool:
        """Whether the leading ones of a chosen rank can stand for all: no."""
        return False

    def __call__(self, X: Any) -> Any:
        return sparse.csr_array(X)[:, self.kept] if sparse.issparse(X) else np.asarray(X)[:, self.kept]

    def named(self, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        """The names of the columns that are kept; those without a name go by their number among all."""
        return tuple(f"column {j}" if names is None else names[j] for j in self.kept)

    def others(self, X: Any) -> Tensor:
        """The columns whose coefficients are zero, dense (n, d - k), and the intercept's where that is held too."""
        left = np.setdiff1d(np.arange(self.all), self.kept)
        found = sparse.csr_array(X)[:, left].toarray() if sparse.issparse(X) else np.asarray(X)[:, left]
        found = torch.as_tensor(found, dtype=torch.float64)
        return torch.nn.functional.pad(found, (0, 1), value=self.constant) if self.constant else found


@dataclass(frozen=True, eq=False)
class Active:
    """What an l1 penalty comes down to near its optimum: some columns, and a slope on them.

    Args:
        columns: those that are not zero.
        coef: their coefficients (1, k).
        slope: of the penalty on them (k,).
    """

    columns: Columns
    coef: np.ndarray
    slope: np.ndarray

    @classmethod
    def of(cls, model: Any, coef: np.ndarray, l1: float, name: str = "l1") -> Active:
        """The columns of one output's coefficients that are not zero.

        Args:
            model: the fitted estimator, which a message names.
            coef: its coefficients (1, d).
            l1: the strength of the l1 penalty on the mean loss.
            name: what the penalty is called.

        Raises:
            ValueError: for several outputs, whose columns differ, and where all coefficients are zero.
        """
        if len(coef) > 1:
            raise ValueError(
                f"{type(model).__name__} with an {name} penalty and several outputs is not supported: each output has "
                "columns of its own; fit one model for each, or use the l2 penalty"
            )
        kept = np.flatnonzero(coef[0])
        if not len(kept):
            raise ValueError(
                f"all coefficients of this {type(model).__name__} are zero: no training row can be told to move them; "
                "fit with a weaker penalty"
            )
        return cls(Columns(kept, coef.shape[1], l1), coef[:, kept], l1 * np.sign(coef[0, kept]))

    def reading(
        self,
        intercept: np.ndarray | None,
        loss: LinearLoss,
        l2: float,
        keep: Keep,
        *,
        l1_intercept: float = 0.0,
    ) -> Reading:
        """What the estimator minimised in those columns.

        Args:
            intercept: its intercept (1,), or None.
            loss: the loss of one example.
            l2: the strength of the l2 penalty beside the l1 penalty.
            keep: which retraining the same estimator does without some rows.
            l1_intercept: the strength of the l1 penalty on the intercept.
        """
        slope, columns = self.slope, self.columns
        notes: tuple[str, ...] = (self.note,)
        if intercept is not None and l1_intercept and not intercept[0]:
            intercept, notes = None, (*notes, "the l1 penalty holds the intercept at zero")
            columns = replace(columns, constant=columns.bound / l1_intercept)
        if intercept is not None:
            slope = np.append(slope, l1_intercept * np.sign(intercept))
        return Reading(self.coef, intercept, loss, l2, keep, phi=columns, slope=slope, notes=notes)

    @property
    def note(self) -> str:
        """What is held fixed, in words."""
        return (
            f"the columns that the l1 penalty left, {len(self.columns.kept)} of {self.columns.all}, and the signs of "
            "their coefficients are held fixed"
        )


def with_kinks(problem: LinearProblem, reading: Reading, X: Any, anew: bool = False) -> LinearProblem:
    """The problem that knows the rows without which its estimator leaves another one: what is shown of them are refits.

    Args:
        problem: the fitted model.
        reading: what it minimised, which may name such rows itself.
        X: the inputs with all columns (n, d).
        anew: whether refits fit transformers of the inputs anew, which every row moves.
    """
    if anew and reading.still is not None:
        reading = replace(reading, refitted=np.arange(problem.n), still=None)
    if reading.refitted is not None:
        problem.cache[KINKED] = torch.as_tensor(reading.refitted)
    if reading.still is not None:
        problem.cache[STILL] = torch.as_tensor(reading.still)
    if reading.slope is None:
        return problem
    said, kinked = certificate(problem, reading.phi, X)
    found = problem.changed(terms=replace(problem.terms, notes=(*problem.terms.notes, *said)))
    found.cache[KINKED] = kinked if reading.refitted is None else torch.as_tensor(reading.refitted)
    return found


def certificate(problem: LinearModel, columns: Any, X: Any) -> tuple[tuple[str, ...], Tensor | None]:
    """For which training rows the support is known to stay as it is when they are removed.

    Args:
        problem: the fitted model in the columns that are not zero.
        columns: which these are.
        X: the inputs with all columns (n, d).

    Returns:
        It in a sentence, and the numbers of the rows without which the support is another, None where nobody looked.
    """
    rows = changed_support(problem, columns, X)
    if rows is None:
        words = "whether a removal changes the columns that the l1 penalty leaves was not looked at: too many numbers"
        return (words,), None
    if not len(rows):
        return ("no training row's removal alone changes these columns, by a Newton step each",), rows
    index = problem.train_index
    ids = rows.tolist() if index is None else index[rows.numpy()].tolist()
    more = "" if len(ids) <= NAMED else f" and {len(ids) - NAMED} more"
    words = (
        f"the removal of each of {len(ids)} of {problem.n} rows changes these columns, by a Newton step: "
        f"of_each_removal fits the estimator again without them ({', '.join(map(str, ids[:NAMED]))}{more})"
    )
    return (words,), rows


def changed_support(problem: LinearModel, columns: Columns, X: Any) -> Tensor | None:
    """The training rows whose removal would change which columns an l1 penalty leaves, by a Newton step each.

    A coefficient that would pass zero leaves, a column whose gradient would pass the penalty's strength comes in: for
    all other rows the step stays where the objective is smooth, which certifies it to the step's own accuracy.

    Args:
        problem: the fitted model in the columns that are not zero.
        columns: which these are.
        X: the inputs with all columns (n, d).

    Returns:
        Row numbers (b,), or None where there are too many numbers to look at.
    """
    n, left, slope = problem.n, columns.all - len(columns.kept), problem.penalty.slope
    if slope is None or n * problem.p * (left + problem.p) > CHECKED:
        return None
    there, coordinates = problem.hessian.centred() or (problem.hessian, Coordinates())
    try:
        factor = CholeskyFactor(there.matrix(), problem.gauge)
    except IndefiniteError:
        return None
    parts = problem.derivatives()
    r, a = parts.r[:, 0], parts.a[:, 0]
    inside = problem.design.block(slice(None), torch.float64).dense()
    if problem.has_intercept:
        inside = torch.cat([inside, torch.ones(n, 1).double()], 1)
    solved = coordinates.outward(factor.solve(coordinates.inward(inside)))
    leverage = (a * (solved * inside).sum(1) / n).clamp(max=1 - 1e-6)
    every = problem.train_gradients(torch.arange(n))
    moved = coordinates.outward(factor.solve(coordinates.inward(every))) / (n * (1 - leverage))[:, None]
    signed = slope != 0
    bad = ((problem.theta + moved).sign() != problem.theta.sign())[:, signed].any(1)
    outside = columns.others(X)
    change = (outside.T * a) @ inside / n  # of the gradients of the columns at zero, per change of theta
    own = outside * (r + a * (moved * inside).sum(1))[:, None] / n
    after = (outside.T @ r / n) + moved @ change.T - own
    bound = columns.bound * ((n - 1) / n if problem.penalty.leaves_with_examples else 1.0)
    bad |= (after.abs() > bound).any(1)
    return bad.nonzero()[:, 0]
