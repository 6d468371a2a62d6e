"""The diagnostics that statisticians know, of every training row or group: leverage, Cook's distance, DFBETAS, ..."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from ..capabilities import Reduced
from ..curvature.base import ExampleMean
from ..data.row_sets import as_sets
from ..errors import NotConvergedError
from ..influence.unrolled import Answers
from ..influence.woodbury import newton_steps
from ..objective import LinearModel, Objective
from ..runtime.notebook import as_html
from ..runtime.progress import track
from ..runtime.terminal import plain
from ..types import Tensor
from .labels import row_names
from .parts import coefficient_names, part_names

ROWS = 1024
"""Rows whose gradients are written out at once."""


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How much each training row (or group of rows) pulls on the model, in the measures of regression diagnostics.

    `table` has a line per row or group: its number of "rows", "leverage" (the share of its own fit, summed in groups),
    "cooks distance" and "covratio"; of rows also "residual" (Pearson's), "standardised" and "studentised" (the residual
    over its standard deviation, internally with the scale s of all rows, externally with that of all others) and
    "dffits"; of generalised linear models also "deviance" (its residual) and "likelihood" (the root of what leaving the
    row out takes off the deviance, over the scale of the others). `dfbeta` has a column per coefficient: with less
    without; `dfbetas` is that in standard errors with the scale of the other rows. NaN where a row or group alone
    determines something. `scores` are score residuals of Cox's model and NegativeBinomial, None of others: the gradient
    of a row's part in the log-likelihood, its weight included; without a penalty they add up to 0.

    `parameters` is the sum of all leverages, the number of coefficients where there is no penalty. `scale` is s.
    """

    table: pd.DataFrame
    dfbeta: pd.DataFrame
    dfbetas: pd.DataFrame
    parameters: float
    scale: float
    scores: pd.DataFrame | None = None

    def __repr__(self) -> str:
        return plain(f"{self._words()}\n{self._strongest().to_string()}")

    def _repr_html_(self) -> str:
        return as_html(self._words(), self._strongest())

    def _strongest(self) -> pd.DataFrame:
        return self.table.sort_values("cooks distance", ascending=False, kind="stable").head(10)

    def _words(self) -> str:
        mean = self.parameters / self.table["rows"].sum()
        return (
            f"Diagnostics of {len(self.table)} {self.table.index.name or 'group'}s, the largest Cook's distance first "
            f"(effective parameters {self.parameters:.4g}, a mean leverage of {mean:.3g}; scale {self.scale:.4g})"
        )


def diagnostics(
    influence: Answers, by: Any = None, *, refitted: bool = False, first_order: bool = False
) -> Diagnostics:
    """Leverage, Cook's distance, DFBETAS, DFFITS, studentised residuals and COVRATIO of every training row or group.

    Of least squares all are exact, as refits without the row give them; sample weights are those of weighted least
    squares (variances 1 / w). Of logistic regression and generalised linear models each is that of one Newton step,
    as R and statsmodels have it, or of a refit without the row or group.
    Leverages and standard errors are those of the expected information, as usual, the scale Pearson's, or 1 where the
    family has no dispersion. With a penalty the refit keeps it (`keep`), and the sum of the leverages takes the place
    of the number of coefficients.

    Of Cox's model and NegativeBinomial there are Cook's distances, DFBETAS in the standard errors of all rows and score
    residuals alone: by a Newton step of what is left, by refits, or with `first_order` by derivatives in the rows'
    weights, as R's survival has `dfbeta` and `dfbetas`; of groups (subjects) these are sums. Of classifiers by moments
    there are Cook's distances alone: how far the outputs of all rows move without the row, exactly, in the curvature of
    their log-losses, over how many numbers tell the classes apart.

    Args:
        influence: of a linear model of one output: least squares, ridge, logistic regression, or a generalised
            linear model of `from_results`; of Cox, negative binomial and classifiers by moments as said.
        by: groups in place of rows, as `Influence.of_removal` takes them: a column (n,) of patients or clusters.
        refitted: whether Cook's distance, DFBETAS, COVRATIO and the scale of the others are those of refits without
            each row or group, not of one Newton step; some milliseconds each.
        first_order: whether DFBETAS and Cook's distances are derivatives, of Cox's model and NegativeBinomial alone.

    Raises:
        TypeError: for other models.
        ValueError: for several outputs, and losses without a likelihood.

    >>> import torch
    >>> from upweight import Influence, LinearProblem, Squared
    >>> X, y = torch.tensor([[1.0, 0], [1, 1], [1, 2], [1, 9]]), torch.tensor([0.0, 1, 1, 9])
    >>> found = diagnostics(Influence(LinearProblem.fit(X, y, loss=Squared())))
    >>> found.table["leverage"].round(2).tolist(), found.parameters
    ([0.43, 0.33, 0.27, 0.97], 2.0)
    """
    steps = _steps(influence.problem, refitted, first_order)
    if (reduced := influence.problem.reduced) is not None:
        if influence.problem.facts.own_loss:
            return _of_likelihood(influence.problem, reduced, by, steps)
        return _of_moments(influence.problem, reduced, by)
    problem, given = influence.problem.linear, influence.settings.curvature
    curvature = None if given is None else given.examples
    if problem is None or curvature is None:
        raise TypeError(
            "diagnostics are for linear models with their Hessian: of networks and trees ask influence.on_self()"
        )
    problem.check_current()
    squares, fisher = _is_least_squares(problem), _expected(problem)
    names, sets = _sets(problem, by)
    moves, leverage, left = _without(problem, curvature, sets)
    if problem.loss.expected_curvature is None:
        data = problem.hessian.matrix(torch.float64) * problem.n - torch.diag(problem.l2 * problem.n)
        covariance = influence.solve(torch.eye(problem.p, dtype=torch.float64)).value / problem.n
    else:
        data, covariance, leverage, left = _by_fisher(problem, fisher, sets)
    used = float((data * covariance).sum())
    others = None
    if refitted:
        moves, left, others = _by_refits(problem, sets, covariance)
    residuals, present = _pearson(problem), _counted(problem)
    scale, alone = torch.tensor(1.0).double(), torch.ones(len(sets)).double()
    if squares or problem.loss.dispersed:
        freedom = present.sum() - used
        scale = (residuals.square().sum() / freedom).sqrt()
        gone = torch.stack([present[rows].sum() for rows in sets])
        if others is None:
            others = (_squares_without if squares else _pearson_without)(problem, sets, moves)
        alone = (others / (freedom - gone)).clamp(min=0).sqrt()
    root = (1 - leverage).sqrt()
    of_rows: dict[str, Tensor] = {}
    if by is None:
        of_rows = {
            "residual": residuals,
            "standardised": residuals / (scale * root),
            "studentised": residuals / (alone * root),
            "dffits": residuals * leverage.sqrt() / (alone * root**2),
        }
        if not squares:
            deviance = residuals.sign() * (2 * problem.weights * problem.train_losses()).sqrt()
            both = (deviance.square() + leverage * (residuals / root).square()).sqrt()
            of_rows |= {"deviance": deviance, "likelihood": residuals.sign() * both / alone}
    found = {
        "rows": torch.tensor([len(rows) for rows in sets]),
        "leverage": leverage,
        **of_rows,
        "cooks distance": ((moves @ data) * moves).sum(1) / (used * scale**2),
        "covratio": (alone / scale) ** (2 * used) / left,
    }
    table = pd.DataFrame({name: values.numpy() for name, values in found.items()}, index=names)
    known = ["rows", "leverage", "residual", "deviance"]
    table.loc[moves.isnan().any(1).numpy(), table.columns.difference(known)] = np.nan
    betas = (-moves / (alone[:, None] * covariance.diagonal().sqrt())).numpy()
    columns = part_names(problem)[: problem.p]
    beta = pd.DataFrame(-moves.numpy(), names, columns)
    return Diagnostics(table, beta, pd.DataFrame(betas, names, columns), used, float(scale))


def _sets(problem: Objective, by: Any) -> tuple[pd.Index, list[Tensor]]:
    """Names and rows of what is looked at: each row, or groups."""
    if by is not None:
        return as_sets(by, problem.n, problem.train_index)
    every = torch.arange(problem.n)
    return row_names(problem, every), list(every.split(1))


def _steps(problem: Objective, refitted: bool, first_order: bool) -> str:
    """How parameters without rows are found, in a word.

    Raises ValueError for derivatives of models that have none here, and where both are asked for.
    """
    if first_order and (problem.reduced is None or not problem.facts.own_loss):
        raise ValueError(
            "first_order is for Cox's model and NegativeBinomial: other models have exact steps or Newton steps; their "
            "derivatives are influence.on_params(rows)"
        )
    if refitted and first_order:
        raise ValueError("refitted and first_order exclude each other: refits are no derivatives")
    return "refit" if refitted else "first order" if first_order else "newton"


def _of_likelihood(problem: Objective, reduced: Reduced, by: Any, steps: str) -> Diagnostics:
    """Cook's distances, DFBETAS and scores of a model by its whole likelihood: Cox, negative binomial.

    Args:
        problem: the model.
        reduced: what is left of it without some rows.
        by: groups in place of rows.
        steps: how the parameters without a set are found: "newton", "refit", or "first order".
    """
    problem.check_current()
    names, sets = _sets(problem, by)
    gradients = problem.train_gradients(torch.arange(problem.n))
    information = problem.hessian.matrix(torch.float64) * problem.n
    if steps == "first order":
        moves = torch.stack([gradients[rows].sum(0) for rows in sets])
        moves = torch.linalg.solve(information, moves.T).T
    elif steps == "refit":
        moves = torch.stack([reduced.refitted(rows)[0] for rows in sets]) - problem.theta
    else:
        moves = reduced.newton(sets) - problem.theta
    errors = torch.linalg.inv(information).diagonal().sqrt()
    table = {
        "rows": [len(rows) for rows in sets],
        "cooks distance": (((moves @ information) * moves).sum(1) / problem.p).numpy(),
    }
    scores = torch.stack([(problem.folded_penalty - gradients[rows]).sum(0) for rows in sets])
    beta, betas, scores_ = (
        pd.DataFrame(found.numpy(), names, coefficient_names(problem))
        for found in (-moves, -moves / errors, scores)
    )
    whole = pd.DataFrame(table, index=names)
    return Diagnostics(whole, beta, betas, float(problem.p), 1.0, scores_)


def _of_moments(problem: Objective, reduced: Reduced, by: Any) -> Diagnostics:
    """Cook's distances of a classifier by moments: what removals do to the outputs of all rows.

    Args:
        problem: the classifier.
        reduced: what is left of it without some rows.
        by: groups in place of rows.
    """
    problem.check_current()
    names, sets = _sets(problem, by)
    every, model = problem.train_batch(torch.arange(problem.n)), problem.output_model
    assert model is not None
    here = model.outputs(model.prepared(every)[0])
    sure = here.sigmoid() if model.c == 1 else here.softmax(1)
    moved = torch.empty(len(sets), dtype=torch.float64)
    for k, rows in enumerate(track(sets, "diagnostics", len(sets))):
        there = problem.at(reduced.settled([rows])[0]).output_model
        assert there is not None
        move = there.outputs(there.prepared(every)[0]) - here
        bent = sure * move.square()
        bent = bent.sum(1) - (sure * move).sum(1).square()
        moved[k] = problem.weights @ bent
    numbers = float(reduced.numbers)
    table = {"rows": [len(rows) for rows in sets], "cooks distance": (moved / numbers).numpy()}
    nothing = pd.DataFrame(index=names)
    return Diagnostics(pd.DataFrame(table, index=names), nothing, nothing, numbers, 1.0)


def _expected(problem: LinearModel) -> Float[Tensor, " n"]:
    """The expected curvature of each row in its output, weights included: what Fisher scoring weighs rows by."""
    own = problem.loss.expected_curvature
    if own is None:
        return problem.derivatives().a[:, 0]
    return own(problem.outputs(), problem.y)[:, 0] * problem.weights


def _pearson(problem: LinearModel) -> Float[Tensor, " n"]:
    """Pearson's residual of each row, positive where the target is above its mean."""
    fisher, sign = _expected(problem), 1.0 if problem.loss.falling else -1.0
    return torch.where(fisher > 0, sign * problem.derivatives().r[:, 0] / fisher.sqrt(), 0)


def _counted(problem: LinearModel) -> Float[Tensor, " n"]:
    """How many rows each row counts for: 0 where it has no weight."""
    return problem.weights if problem.loss.repeated else (problem.weights > 0).double()


def _by_refits(
    problem: LinearModel, sets: list[Tensor], covariance: Float[Tensor, "p p"]
) -> tuple[Float[Tensor, "G p"], Float[Tensor, " G"], Float[Tensor, " G"]]:
    """What refits without each set say: moves, the share of the determinant left, Pearson's statistic; NaN for none.

    Args:
        problem: the model.
        sets: the rows of each set.
        covariance: the inverse of the information of all rows.
    """
    moves = torch.full((len(sets), problem.p), torch.nan, dtype=torch.float64)
    left, others = torch.full((2, len(sets)), torch.nan, dtype=torch.float64)
    for k, rows in enumerate(sets):
        try:
            there = problem.without(rows).minimised()
        except NotConvergedError:  # of separated rows too: there is no optimum
            continue
        moves[k], others[k] = there.theta - problem.theta, _pearson(there).square().sum()
        X = there.output_gradients(there.train_batch(torch.arange(there.n)))[:, 0]
        information = (X.T * _expected(there)) @ X + torch.diag(there.l2 * there.n)
        left[k] = torch.linalg.det(information @ covariance)
    return moves, left, others


def _by_fisher(
    problem: LinearModel, fisher: Float[Tensor, " n"], sets: list[Tensor]
) -> tuple[Float[Tensor, "p p"], Float[Tensor, "p p"], Float[Tensor, " G"], Float[Tensor, " G"]]:
    """The expected information, its inverse, and of each set its leverage and the share of the determinant left.

    Args:
        problem: the model, without a penalty.
        fisher: the expected curvature of each row.
        sets: the rows of each set.
    """
    X = problem.design.block(slice(None), torch.float64).dense()
    if problem.has_intercept:
        X = torch.cat([X, X.new_ones(len(X), 1)], dim=1)
    R = torch.linalg.qr(X * fisher.sqrt()[:, None], mode="r").R
    Q = torch.linalg.solve_triangular(R, X * fisher.sqrt()[:, None], upper=True, left=False)
    leverage = torch.stack([Q[rows].square().sum() for rows in sets])
    eye = torch.eye(problem.p, dtype=torch.float64)
    left = torch.stack([torch.linalg.det(eye - Q[rows].T @ Q[rows]) for rows in sets])
    inverse = torch.linalg.solve_triangular(R, eye, upper=True)
    return R.T @ R, inverse @ inverse.T, leverage, left


def _without(
    problem: LinearModel, curvature: ExampleMean, sets: list[Tensor]
) -> tuple[Float[Tensor, "G p"], Float[Tensor, " G"], Float[Tensor, " G"]]:
    """What leaving out each set does: to the parameters, its leverage, and the share of det X^T W X that is left."""
    moves = torch.empty(len(sets), problem.p, dtype=torch.float64)
    leverage, left = torch.empty(2, len(sets), dtype=torch.float64)
    for batch, inverse, step in newton_steps(problem, curvature, sets, "diagnostics"):
        moves[batch] = step
        leverage[batch], left[batch] = inverse.own, inverse.share_left
    return moves, leverage, left


def _is_least_squares(problem: LinearModel) -> bool:
    """Whether losses are squares; raises ValueError where diagnostics have no meaning."""
    if problem.c > 1:
        raise ValueError(
            f"diagnostics are about one output, the model has {problem.c}: ask influence.leave_one_out()"
        )
    if torch.equal(problem.derivatives().a[:, 0], problem.weights) and not problem.loss.classifies:
        return not problem.loss.repeated
    if problem.loss.expected_curvature is None and not problem.loss.likelihood:
        raise ValueError(
            "diagnostics are about least squares, logistic regression and generalised linear models, not "
            f"{type(problem.loss).__name__}: ask influence.leave_one_out()"
        )
    return False


def _squares_without(
    problem: LinearModel, sets: list[Tensor], moves: Float[Tensor, "G p"]
) -> Float[Tensor, " G"]:
    """The weighted squares of the residuals of least squares fitted without each set, on all other rows.

    Args:
        problem: the model.
        sets: the rows of each set.
        moves: what leaving it out does to the parameters.
    """
    w = problem.weights
    data = problem.hessian.matrix(torch.float64) * problem.n - torch.diag(problem.l2 * problem.n)
    residual = torch.where(w > 0, problem.derivatives().r[:, 0] / w.clamp(min=1e-300), 0)
    pull = (problem.gradient() - problem.penalty.gradient(problem.theta)) * problem.n
    total = (w * residual.square()).sum() + 2 * moves @ pull + ((moves @ data) * moves).sum(1)
    own = torch.zeros(len(sets), dtype=torch.float64)
    owners = torch.arange(len(sets)).repeat_interleave(torch.tensor([len(rows) for rows in sets]))
    for rows, owner in zip(torch.cat(sets).split(ROWS), owners.split(ROWS), strict=True):
        gradients = problem.output_gradients(problem.train_batch(rows))[:, 0]
        off = residual[rows] + (gradients * moves[owner]).sum(1)
        own.index_add_(0, owner, w[rows] * off.square())
    return total - own


def _pearson_without(
    problem: LinearModel, sets: list[Tensor], moves: Float[Tensor, "G p"]
) -> Float[Tensor, " G"]:
    """Pearson's statistic of all other rows at the parameters without each set: n G numbers, some at a time.

    Args:
        problem: the model.
        sets: the rows of each set.
        moves: what leaving it out does to the parameters.
    """
    own = problem.loss.expected_curvature
    assert own is not None
    found = torch.zeros(len(sets), dtype=torch.float64)
    for places in torch.arange(len(sets)).split(ROWS):
        for part, eta in problem.outputs_at_each(problem.theta + moves[places]):
            y, w = problem.y[part], problem.weights[part, None]
            squares = w * problem.loss.residual(eta, y)[:, 0].square() / own(eta, y)[:, 0]
            for k, place in enumerate(places.tolist()):
                rows = sets[place]
                rows = rows[(rows >= part.start) & (rows < part.stop)]
                squares[rows - part.start, k] = 0
            found[places] += squares.sum(0)
    return found
