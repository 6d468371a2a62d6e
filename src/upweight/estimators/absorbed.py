"""Least squares with absorbed effects or instruments: from what packages of econometrics keep to a problem."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import scipy.linalg
import torch

from ..data.user_terms import Terms
from ..likelihood import LikelihoodProblem, PartialledSquares
from ..likelihood.partialled import without_effects
from ..linear.problem import LinearProblem
from ..losses import GeneralisedLinear, LinearLoss, Squared
from ..objective import Objective
from ..types import Tensor
from .refitting import OWN, WRITTEN_OUT

OFF = 1e-3
"""How far coefficients may be from the least squares, in standard errors, for the results to be what was read."""
WIDEST = 1 << 27
"""Numbers that columns of effects may take when they are written out."""


@dataclass(frozen=True, eq=False)
class Regression:
    """What a fitted regression of a package of econometrics minimised, and how it is fitted again on some rows.

    Args:
        package: what its results are called in messages.
        X: the regressors (n, k), by name, in the order of `coef`.
        y: the targets (n,).
        coef: the fitted coefficients (k,).
        weights: the weights of the rows (n,).
        effects: the group of each row in each effect that was absorbed (n, q), by the name of the effect.
        index: what the rows are called.
        refitted: from some rows (index) to the coefficients of the same model fitted on them alone, by name.
        prepare: from a batch as the user has it to regressors; None: they are given.
        instruments: all instruments (n, z), exogenous regressors among them, or None.
        repeated: whether weights count rows that were alike, and not precision.
        notes: what was held fixed, one sentence each.
    """

    package: str
    X: pd.DataFrame
    y: np.ndarray
    coef: np.ndarray
    weights: np.ndarray
    effects: pd.DataFrame
    index: pd.Index
    refitted: Callable[[np.ndarray], Mapping[str, float]]
    prepare: Callable[[Any], np.ndarray] | None = None
    instruments: np.ndarray | None = None
    repeated: bool = False
    notes: Sequence[str] = ()

    @property
    def loss(self) -> LinearLoss:
        """Half the squared error of a row."""
        return (
            replace(GeneralisedLinear("gaussian", "identity"), repeated=True) if self.repeated else Squared()
        )


def regression(read: Regression) -> Objective:
    """The problem of a fitted regression: linear where nothing is absorbed, else one of the coefficients alone.

    Effects are taken out exactly, so that what a package's iterations left undone is finished.

    Args:
        read: what was fitted.

    Raises:
        ValueError: where the coefficients are not the least squares of what was read.
    """
    codes = torch.from_numpy(np.column_stack([pd.factorize(read.effects[c])[0] for c in read.effects]
                             or [np.empty((len(read.X), 0), dtype=np.int64)]).astype(np.int64))  # fmt: skip
    X, y = torch.from_numpy(read.X.to_numpy(float, copy=True)), torch.from_numpy(read.y.astype(np.float64))
    terms = Terms(
        prepare=_Batches(read),
        feature_names=tuple(map(str, read.X.columns)),
        train_index=read.index,
        notes=tuple(read.notes),
    )
    found: Objective
    if not codes.shape[1] and read.instruments is None:
        found = LinearProblem(
            X, y, read.coef, loss=read.loss, weights=read.weights, keep="total", terms=terms
        )
        found = found.minimised()
    else:
        Z = (
            None
            if read.instruments is None
            else torch.from_numpy(np.array(read.instruments, dtype=np.float64))
        )
        w = torch.from_numpy(np.array(read.weights, dtype=np.float64))
        within = without_effects(torch.cat([X, y[:, None]], 1), codes, w)
        left = within[:, -1] - within[:, :-1] @ torch.from_numpy(read.coef)
        groups = sum(read.effects[name].nunique() - 1 for name in read.effects)
        freedom = max(len(y) - X.shape[1] - groups - 1, 1)
        variance = float(w @ left.square()) / freedom
        likelihood = PartialledSquares(X, y[:, None], codes, variance or 1.0, Z)
        problem = LikelihoodProblem(likelihood, read.coef, weights=w, keep="total", terms=terms)
        found = problem.at(problem.theta + problem.newton_step())
        if Z is None:
            found.cache[WRITTEN_OUT] = lambda: written_out(read)
    _check(read, found)
    found.cache[OWN] = _refitting(read, found)
    return found


def _check(read: Regression, found: Objective) -> None:
    """Nothing happens where the least squares of what was read are the fitted coefficients; else ValueError."""
    H = found.hessian.matrix(torch.float64) * found.n
    errors = torch.linalg.inv(H).diagonal().clamp(min=0).sqrt()
    if (linear := found.linear) is not None:
        errors = errors * float((linear.weights @ linear.train_losses()) / linear.n) ** 0.5
    off = float(((found.theta - torch.from_numpy(read.coef)).abs() / errors.clamp(min=1e-300)).max())
    exact = bool(torch.allclose(found.theta, torch.from_numpy(read.coef), rtol=1e-8))
    if not (off <= OFF or exact):
        raise ValueError(
            f"the coefficients of these {read.package} results are {off:.2g} standard errors from the least squares of "
            "the data that they keep: data were changed since, a setting is not read, or absorbing the effects ended "
            "early (lower its tolerance)"
        )


def _refitting(read: Regression, problem: Any) -> Callable[[Tensor], Objective]:
    """How the package fits the model again on some of the rows."""

    def refit(kept: Tensor) -> Objective:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it was said when it was fitted the first time
            coef = read.refitted(kept.numpy())
        values = [float(coef[str(name)]) for name in read.X.columns]
        return problem.subset(kept).at(torch.tensor(values, dtype=torch.float64))

    return refit


@dataclass(frozen=True, eq=False)
class _Batches:
    """Batches as the user has them -> regressors and targets."""

    read: Regression

    def __call__(self, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        names = list(self.read.X.columns)
        if self.read.prepare is not None:
            made = self.read.prepare(X)
        elif isinstance(X, pd.DataFrame):
            missing = [name for name in names if name not in X.columns]
            if missing:
                raise ValueError(f"the batch lacks columns that the model was fitted on: {missing[:10]}")
            made = X[names].to_numpy(float)
        else:
            made = np.asarray(X, dtype=np.float64)
        targets = np.asarray(y, dtype=np.float64).reshape(-1)
        return made, targets[:, None] if self.read.effects.shape[
            1
        ] or self.read.instruments is not None else targets


def written_out(read: Regression) -> LinearProblem | None:
    """Least squares with a column for each group of each effect, which is what a proof needs.

    Groups that the others explain have none: the last of a second effect, one for each part of the data that effects
    do not tie together. None where the columns would take too much memory.

    Args:
        read: what was fitted, without instruments.
    """
    X, y = read.X.to_numpy(float), read.y.astype(np.float64)
    count = sum(read.effects[name].nunique() for name in read.effects)
    if count * len(y) > WIDEST:
        return None
    dummies, names = _dummies(read.effects)
    design = np.column_stack([X, dummies])
    start = np.zeros(design.shape[1])
    terms = Terms(
        prepare=_without_effect, feature_names=(*map(str, read.X.columns), *names), train_index=read.index
    )
    return LinearProblem(design, y, start, loss=read.loss, weights=read.weights, keep="total", terms=terms)


def _without_effect(X: Any, y: Any) -> tuple[Any, Any]:
    raise ValueError("the prediction of a row depends on its absorbed effects: ask about a coefficient")


def _dummies(effects: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
    """Independent columns of groups, and their names."""
    order = sorted(effects.columns, key=lambda name: -effects[name].nunique())
    tables = [pd.get_dummies(effects[name], prefix=str(name), prefix_sep="=") for name in order]
    first, names = tables[0].to_numpy(float), [str(c) for c in tables[0].columns]
    if len(tables) == 1:
        return first, names
    more = pd.concat(tables[1:], axis=1)
    codes = torch.from_numpy(pd.factorize(effects[order[0]])[0].astype(np.int64))[:, None]
    dense = torch.from_numpy(more.to_numpy(float, copy=True))
    left = without_effects(dense, codes, torch.ones(len(dense)).double())
    R, pivot = scipy.linalg.qr((left.T @ left).numpy(), mode="r", pivoting=True)
    size = np.abs(np.diagonal(R))
    kept = np.sort(pivot[: int((size > 1e-10 * size[0]).sum())])
    return np.column_stack([first, more.to_numpy(float)[:, kept]]), names + [
        str(more.columns[j]) for j in kept
    ]
