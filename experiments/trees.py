"""Do derivatives of boosted trees predict retraining? Beside leaves refitted, the direct term alone, and chance.

    python -m experiments trees            four data sets, five libraries: 40 minutes
    python -m experiments trees --small    breast cancer and scikit-learn's GradientBoosting alone

Boosters of 50 trees are trained on 70 % of each table; asked about are the losses of 20 other rows. Judged by trainings
of the same estimator, with the same seed, that split anew:

- `subsets`: the linear datamodeling score (`upweight.evaluation.lds`) where 2, 10 or 50 % of the training rows are
  dropped, of `derivative` (`Influence.on_loss`), `ceiling` (leaf values fitted to the rows left, the splits held fixed,
  which no derivative at fixed splits can be expected to pass), `direct` (the direct term of BoostIn: the answer without
  what a row does through later trees) and `random` scores. The bar: the derivative reaches 97 % of the ceiling.
- `groups`: the mean change of the loss of each test row without the 20 rows that help it most, and without 20 random
  ones, with 95 % intervals.
- `single`: the correlation of predicted and actual changes where the one row that helps a test row most is removed, by
  the derivative and by refitted leaves: how near single rows are to the noise of other splits.

Writes trees.json and trees.png. XGBoost, LightGBM and CatBoost are left out where they are not installed; the
hospital's table needs UPWEIGHT_DATA_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from sklearn import datasets
from sklearn.base import clone, is_classifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

import upweight as uw
from experiments import common
from upweight.evaluation import counterfactual, lds, random_subsets, retrained

TESTS, TREES, GROUP = 20, 50, 20
SHARES = (0.02, 0.1, 0.5)
BAR = 0.97


class Table(NamedTuple):
    """Training rows, and the test rows that are asked about."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def split(X: np.ndarray, y: np.ndarray, most: int = 1500) -> Table:
    """At most so many training rows, 70 %, and test rows drawn from the others."""
    order = np.random.default_rng(0).permutation(len(X))
    n = min(most, round(0.7 * len(X)))
    train, test = order[:n], order[n : n + TESTS]
    return Table(X[train], y[train], X[test], y[test])


def three_or_eight() -> Table:
    """Two digits that look alike."""
    X, y = datasets.load_digits(return_X_y=True)
    chosen = np.isin(y, (3, 8))
    return split(X[chosen], (y[chosen] == 8).astype(int))


def hospital() -> Table:
    """Patients of the experiment `sec53_hospital`."""
    from experiments.sec53_hospital import load

    patients, _ = load()
    return split(patients.X.numpy(), (patients.y.numpy() > 0).astype(int))


SETS: dict[str, Callable[[], Table]] = {
    "breast_cancer": lambda: split(*datasets.load_breast_cancer(return_X_y=True)),
    "diabetes": lambda: split(*datasets.load_diabetes(return_X_y=True)),
    "threes and eights": three_or_eight,
    "hospital": hospital,
}
LIBRARIES = ["GradientBoosting", "HistGradientBoosting", "XGBoost", "LightGBM", "CatBoost"]


def boosters(classes: bool) -> dict[str, Any]:
    """The estimator of each library that is installed."""
    options: dict[str, Any] = {"n_estimators": TREES, "random_state": 0}
    exact = GradientBoostingClassifier if classes else GradientBoostingRegressor
    binned = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    found = {"GradientBoosting": exact(**options), "HistGradientBoosting": binned(max_iter=TREES)}
    try:
        from xgboost import XGBClassifier, XGBRegressor

        found["XGBoost"] = (XGBClassifier if classes else XGBRegressor)(max_depth=4, n_jobs=1, **options)
    except ImportError as missing:
        print(missing)
    try:
        from lightgbm import LGBMClassifier, LGBMRegressor

        found["LightGBM"] = (LGBMClassifier if classes else LGBMRegressor)(n_jobs=1, verbosity=-1, **options)
    except ImportError as missing:
        print(missing)
    try:
        from catboost import CatBoostClassifier, CatBoostRegressor

        kind = CatBoostClassifier if classes else CatBoostRegressor
        quiet = {"thread_count": 1, "verbose": False, "allow_writing_files": False}
        # Left to itself, it chooses the learning rate by the number of rows.
        found["CatBoost"] = kind(depth=4, learning_rate=0.1, **quiet, **options)
    except ImportError as missing:
        print(missing)
    return found


def losses(model: Any, table: Table) -> np.ndarray:
    """The losses of the test rows by what the estimator itself predicts."""
    if not is_classifier(model):
        return (model.predict(table.X_test) - table.y_test) ** 2 / 2
    p = model.predict_proba(table.X_test)[np.arange(len(table.y_test)), table.y_test]
    return -np.log(np.clip(p, 1e-15, 1))


def direct(problem: Any, test: Any) -> np.ndarray:
    """The derivative without what a row does through later trees: every leaf as if it were the last round's."""
    moves = problem.n * problem.test_gradients(test) / problem.fitted.below
    return torch.cat([values for _, values in problem.products(-moves)], dim=1).numpy()


def changes(problem: Any, test: Any, before: np.ndarray, kept: torch.Tensor) -> np.ndarray:
    """How leaf values fitted to the rows that each mask keeps change the measures, the splits held fixed."""
    return np.stack(
        [problem.refitted(problem.weights * mask).evaluate(test).numpy() - before for mask in kept]
    )


def ranked(predicted: np.ndarray, actual: np.ndarray) -> float:
    """The mean over test rows of the rank correlation over subsets."""
    return float(np.mean([spearmanr(*pair).statistic for pair in zip(predicted.T, actual.T, strict=True)]))


def one(model: Any, table: Table, subsets: int) -> dict[str, Any]:
    """All figures of one booster on one table."""
    test = table.X_test, table.y_test
    model = clone(model).fit(table.X, table.y)
    problem = uw.from_estimator(model, table.X, table.y)
    n, before = problem.n, problem.evaluate(test).numpy()
    scores = uw.Influence(problem).on_loss(test)
    others = {"direct": direct(problem, test), "random": np.random.default_rng(1).normal(size=(TESTS, n))}

    def outcome(kept: torch.Tensor, _: int) -> np.ndarray:
        rows = kept.numpy()
        return losses(clone(model).fit(table.X[rows], table.y[rows]), table)

    found: dict[str, Any] = {"n": n, "p": problem.p, "subsets": {}}
    for share in SHARES:
        masks = random_subsets(n, subsets, share=1 - share)
        actual = retrained(outcome, masks)
        line = {"derivative": lds(scores, masks, actual).value}
        line |= {name: lds(values, masks, actual).value for name, values in others.items()}
        line["ceiling"] = ranked(changes(problem, test, before, masks), actual[:, 0].numpy())
        found["subsets"][f"{share:.0%}"] = line
    removed = counterfactual(scores, outcome, sizes=[GROUP], draws=TESTS)
    found["groups"] = removed.table.set_index("group")[["predicted", "actual", "low", "high"]].T.to_dict()
    best = scores.removal_effect().argmax(1)
    alone = torch.ones(TESTS, n, dtype=torch.bool).scatter_(1, best[:, None], False)
    everything = retrained(outcome, torch.ones(1, n, dtype=torch.bool))[0, 0]
    actual_alone = (retrained(outcome, alone)[:, 0] - everything).numpy().ravel()
    first = scores.removal_effect()[:, best].T.numpy().ravel()
    leaves = changes(problem, test, before, alone).ravel()
    found["single"] = {
        "derivative": float(np.corrcoef(first, actual_alone)[0, 1]),
        "refitted leaves": float(np.corrcoef(leaves, actual_alone)[0, 1]),
        "derivative beside refitted leaves": float(np.corrcoef(first, leaves)[0, 1]),
    }
    return found


def picture(result: dict[str, Any]) -> Figure:
    """The score of the derivative and of the direct term over that of refitted leaves."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    lines = [
        line
        for table in result.values()
        for booster in table.values()
        for line in booster["subsets"].values()
    ]
    for name, mark in (("derivative", "o"), ("direct", "x"), ("random", ".")):
        axis.plot([line["ceiling"] for line in lines], [line[name] for line in lines], mark, label=name)
    common.diagonal(axis, [line["ceiling"] for line in lines], [line["derivative"] for line in lines])
    axis.set(xlabel="LDS of leaves refitted at fixed splits (the ceiling)", ylabel="LDS")
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    parser = common.parser(__name__, __doc__, "breast cancer, GradientBoosting, 12 subsets")
    parser.add_argument("--subsets", type=int, default=50, help="trainings of each share that is dropped")
    parser.add_argument("--data", nargs="+", choices=list(SETS), help="these tables alone")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="these alone")
    chosen = common.options(parser, argv)
    names = list(SETS)[: 3 if "UPWEIGHT_DATA_DIR" not in os.environ else None]
    names = ["breast_cancer"] if chosen.small else chosen.data or names
    result: dict[str, Any] = {}
    for name in names:
        table = SETS[name]()
        known = boosters(table.y.dtype.kind == "i")
        result[name] = {}
        for library in [own for own in chosen.libraries if own in known][: 1 if chosen.small else None]:
            model = known[library]
            result[name][library] = one(model, table, 12 if chosen.small else chosen.subsets)
            print(name, library, result[name][library], flush=True)
    picture(result).savefig(chosen.out / "trees.png", dpi=160)
    common.publish(result, chosen.out / "trees.json")


if __name__ == "__main__":
    main()
