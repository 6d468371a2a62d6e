"""A receipt for a deletion: the model without some rows, how far it is from the retrained one at most, and hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int

from ..data.row_sets import row_numbers
from ..influence.unrolled import Answers
from ..linear.whitened import Whitened, is_least_squares
from ..objective import LinearModel
from ..runtime.terminal import plain
from ..types import Tensor
from .labels import row_names

STEPS = 2
"""Newton steps from the model of all rows."""
ROUNDING = 1e-9
"""The share of the bound, and of the parameters' own size times epsilons, that is added for rounding."""


@dataclass(frozen=True, eq=False)
class Receipt:
    """The parameters without some rows, and what they can be off from those of a retraining at most.

    `theta` (p,) are after two Newton steps on the objective without the rows. The retrained parameters are within
    `distance` of them in the Euclidean norm, and within `each` (p,) one by one: bounds that are proven
    (docs/certificates.md, 12), infinite where nothing is. `problem` is the model without the rows at `theta`.
    `hashes` are SHA-256 digests of the removed rows, of the rows that are left, and of the parameters
    before and after. They say what was computed with; that other copies of the rows are gone they cannot say.
    """

    rows: Int[Tensor, " k"]
    names: pd.Index
    theta: Float[Tensor, " p"]
    distance: float
    each: Float[Tensor, " p"]
    moved: float
    problem: LinearModel
    hashes: dict[str, str]

    def __repr__(self) -> str:
        return plain(
            f"{len(self.rows)} training rows removed: parameters moved by {self.moved:.3g}, and are within "
            f"{self.distance:.3g} of those of a retraining without them, which is proven\n"
            + "\n".join(f"sha256 {name}: {digest}" for name, digest in self.hashes.items())
        )

    def to_json(self) -> str:
        """The receipt as JSON: the rows' numbers and names, parameters, bounds and hashes, without the data.

        Whoever has the data can compute the hashes again and train without the rows to check it.
        """
        return json.dumps(
            {
                "rows": self.rows.tolist(),
                "names": [str(name) for name in self.names],
                "parameters": self.theta.tolist(),
                "distance": self.distance,
                "distance of each": self.each.tolist(),
                "moved": self.moved,
                "sha256": self.hashes,
            },
            indent=1,
        )


def removal_receipt(influence: Answers, rows: Any) -> Receipt:
    """The model with some training rows removed, by two Newton steps, and how far from retraining it is at most.

    Least squares is exact after one step, but for rounding. For logistic regression, and Poisson, Gamma, Tweedie and
    negative binomial regression with log link, the bound is ||Delta||_H <= -log(1 - rho lambda) / rho with lambda the
    norm of the gradient that is left and rho the largest row, both in H^-1, H the Hessian without the rows at the
    parameters returned (generalised self-concordance; docs/certificates.md, 12).

    Args:
        influence: of one of these models, with one output.
        rows: which training rows, as `Influence.of_removal` takes a set: numbers, a mask, or names.

    Raises:
        TypeError: for other models.
        ValueError: for rows that are not there, and where the rest does not determine the parameters (collinear
            columns, named).

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> problem = LinearProblem.fit(torch.ones(4, 1), torch.tensor([0.0, 0, 0, 4]), loss=Squared())
    >>> found = removal_receipt(Influence(problem), [3])
    >>> bool(found.theta.abs() < 1e-12), found.distance < 1e-12
    (True, True)
    """
    problem = influence.problem.linear
    if problem is None or problem.c != 1 or not (is_least_squares(problem) or problem.loss.self_concordant):
        raise TypeError(
            "removal_receipt is for least squares and logistic regression of two classes, and Poisson, Gamma, Tweedie "
            "and negative binomial regression with log link: for other models a deletion is shown by training again"
        )
    if problem.penalty.slope is not None:
        raise TypeError(
            "removal_receipt is not for an l1 penalty: without the rows other columns may be left"
        )
    problem.check_current()
    gone = row_numbers(rows, problem.n, problem.train_index)
    if (
        not len(gone)
        or int(gone.min()) < 0
        or int(gone.max()) >= problem.n
        or len(gone.unique()) in (0, problem.n)
    ):
        raise ValueError(f"rows must be some of the {problem.n} training rows, not none and not all of them")
    gone = gone.unique()
    there = problem.without(gone)
    for _ in range(STEPS):
        there = there.at(there.theta - _step(there))
    whole = Whitened.of(there)
    distance, each = _bounds(there, whole)
    hashes = {
        "removed rows": _digest(problem.subset(gone)),
        "rows left": _digest(there),
        "parameters before": _sha256([problem.theta]),
        "parameters after": _sha256([there.theta]),
    }
    moved = float((there.theta - problem.theta).norm())
    return Receipt(gone, row_names(problem, gone), there.theta, distance, each, moved, there, hashes)


def _step(there: LinearModel) -> Float[Tensor, " p"]:
    """The Newton step, from a factorisation of the rows that are left."""
    whole = Whitened.of(there)
    inner = whole.direction(there.gradient() * there.n)
    return torch.linalg.solve_triangular(whole.root, inner[:, None], upper=True)[:, 0]


def _bounds(there: LinearModel, whole: Whitened) -> tuple[float, Float[Tensor, " p"]]:
    """How far the optimum is from the problem's own parameters at most, in the Euclidean norm and for each of them."""
    left = float(whole.direction(there.gradient() * there.n).norm())
    if not is_least_squares(there):
        widest = float(whole.spread.norm(dim=1).max())
        reach = torch.tensor(widest * left, dtype=torch.float64)
        left = float(-torch.log1p(-reach) / widest) if float(reach) < 1 else float("inf")
    inverse = torch.linalg.solve_triangular(whole.root, torch.eye(len(whole.root)).double(), upper=True)
    rounding = ROUNDING * left + 1e3 * torch.finfo(torch.float64).eps * float(there.theta.norm())
    each = left * inverse.norm(dim=1) + rounding
    return left * float(torch.linalg.matrix_norm(inverse, 2)) + rounding, each


def _digest(problem: LinearModel) -> str:
    """The SHA-256 digest of a problem's rows: inputs, targets and weights as float64, row by row."""
    X = problem.design.block(slice(None), torch.float64).dense()
    targets = problem.y.double().reshape(problem.n, -1)
    return _sha256([torch.cat([X, targets, problem.sample_weights[:, None]], dim=1)])


def _sha256(parts: list[Tensor]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{tuple(part.shape)}".encode())
        digest.update(part.detach().contiguous().numpy().astype("<f8").tobytes())
    return digest.hexdigest()
