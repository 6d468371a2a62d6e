"""What removing a row does to one number of many: AUROC, average precision and four gaps, all rows against refits.

    python -m experiments set_measures            five data sets, every training row: some minutes
    python -m experiments set_measures --small    breast cancer alone, the first 60 training rows to remove

A logistic regression of scikit-learn (C = 1) is fitted to half of each data set, the other half is the reference set;
and it is fitted again without every training row, one at a time. Judged by these refits is the change of the AUROC, of
the average precision, and of the gap of four measures between two groups of the reference rows, the halves along
the direction in which rows differ most:

- `upweight`: `Influence.of_each_removal`, Newton steps until they settle;
- `one step`: the same with `steps=1`;
- `pyinfluence`: FunctionalInfluence of pyinfluence 0.5.0, where it is there: its own AUROC, else any function of
  probabilities.

Told are the Pearson correlation over all rows (None where no row changes anything, or none is said to), the error
||predicted - actual|| / ||actual||, the share of rows whose refit changes nothing and for how many of these the
prediction is exactly 0 too, and the seconds of the processor; the first question of a data set pays for the steps. The
bar is a correlation of 0.99.

Writes set_measures.json and set_measures.png. Breast cancer comes with scikit-learn; the other four need
UPWEIGHT_DATA_DIR and are left out without it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import logit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

import upweight as uw
from experiments import common
from experiments.shown_effects import SETS, Data
from upweight import measures as ms

NAMES = ("breast_cancer", "hospital", "mails", "ones and sevens", "photographs")
ZERO = 1e-12
"""Changes below it are none: sums of the same numbers in another order."""
CORRELATION = 0.99


def halves(data: Data) -> Data:
    """Half of the rows to train on, half as the reference set; the second class against all others."""
    X, y = np.concatenate([data.X, data.X_test]), np.concatenate([data.y, data.y_test])
    order, y = np.random.default_rng(2).permutation(len(X)), (y == y.max()).astype(int)
    train, test = order[: len(X) // 2], order[len(X) // 2 :]
    return Data(X[train], y[train], X[test], y[test])


def groups_of(data: Data) -> np.ndarray:
    """Two groups of the reference rows: the halves along the direction in which the training rows differ most."""
    along = data.X_test @ np.linalg.svd(data.X - data.X.mean(axis=0), full_matrices=False)[2][0]
    return (along > np.median(along)).astype(int)


def asked(groups: np.ndarray) -> dict[str, Any]:
    """What is asked about."""
    rates = (ms.selection_rate, ms.true_positive_rate, ms.false_positive_rate, ms.brier)
    return {
        "auroc": ms.auroc,
        "average precision": ms.average_precision,
        **{f"gap of {of.name}": ms.gap(of, groups) for of in rates},
    }


def judged(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float | None]:
    """How well changes are predicted."""
    nothing, size = np.abs(actual) < ZERO, np.linalg.norm(actual)
    varies = min(predicted.std(), actual.std()) > ZERO
    return {
        "pearson": float(np.corrcoef(predicted, actual)[0, 1]) if varies else None,
        "error": float(np.linalg.norm(predicted - actual) / size) if size > ZERO else None,
        "zero": float(nothing.mean()),
        "predicted as 0": float((np.abs(predicted[nothing]) < ZERO).mean()) if nothing.any() else None,
    }


def refitted(model: Any, data: Data, rows: np.ndarray) -> np.ndarray:
    """The outputs (k, m) for the reference rows of the estimator, fitted again without each row."""
    found = []
    for row in rows:
        kept = np.delete(np.arange(len(data.X)), row)
        found.append(clone(model).fit(data.X[kept], data.y[kept]).decision_function(data.X_test))
    return np.array(found)


def rival(model: Any, data: Data, measure: Any, rows: np.ndarray, actual: np.ndarray) -> dict[str, Any]:
    """What pyinfluence says of the same question, its own AUROC or any function of probabilities; {} without it."""
    try:
        from pyinfluence import FunctionalInfluence
        from pyinfluence.functionals import Functional, auroc
    except ImportError:
        return {}

    def of_probabilities(p: np.ndarray, y: Any) -> float:
        return number(measure, logit(np.clip(p, 1e-300, 1 - 1e-16)), data)

    functional = (
        auroc(1) if measure is ms.auroc else Functional(of_probabilities, differentiable=measure.smooth)
    )
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        influence = FunctionalInfluence(functional=functional).fit(model, data.X, data.y)
        found = np.asarray(influence.explain(data.X_test, data.y_test)).reshape(-1)[rows]
    return {"pyinfluence": {**judged(found, actual), "seconds": time.process_time() - start}}


def one_set(data: Data, rows: np.ndarray) -> dict[str, Any]:
    """All measures of one data set."""
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10).fit(data.X, data.y)
    again, groups = refitted(model, data, rows), groups_of(data)
    reference = data.X_test, data.y_test
    influence = uw.Influence(uw.from_estimator(model, data.X, data.y))
    before = model.decision_function(data.X_test)
    found: dict[str, Any] = {}
    for name, measure in asked(groups).items():
        actual = np.array([number(measure, one, data) for one in again]) - number(measure, before, data)
        line: dict[str, Any] = {}
        for who, steps in (("upweight", None), ("one step", 1)):
            start = time.process_time()
            shown = influence.of_each_removal(reference, measure=measure, steps=steps)
            seconds = time.process_time() - start
            line[who] = {**judged(shown.effect()[0].numpy()[rows], actual), "seconds": seconds}
        found[name] = line | rival(model, data, measure, rows, actual)
    return found


def number(measure: Any, outputs: np.ndarray, data: Data) -> float:
    """The measure of some outputs."""
    return float(measure.function(torch.from_numpy(outputs)[:, None], torch.from_numpy(data.y_test)))


def picture(result: dict[str, Any]) -> Figure:
    """One less the correlation of each prediction, a mark for each data set and measure."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for who, mark in (("upweight", "o"), ("one step", "s"), ("pyinfluence", "x")):
        lines = [(of, line[who]) for table in result.values() for of, line in table.items() if who in line]
        known = [(of, line["pearson"]) for of, line in lines if line["pearson"] is not None]
        axis.plot([of for of, _ in known], [max(1e-16, 1 - r) for _, r in known], mark, label=who)
    axis.axhline(1 - CORRELATION, color="0.6", linewidth=1)
    axis.set(yscale="log", ylabel="1 - Pearson correlation with refits")
    axis.tick_params(axis="x", rotation=30)
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    chosen = common.options(common.parser(__name__, __doc__, "breast cancer, 60 rows to remove"), argv)
    names = NAMES[: 1 if chosen.small or "UPWEIGHT_DATA_DIR" not in os.environ else None]
    result = {}
    for name in names:
        data = halves(SETS[name]())
        result[name] = one_set(data, np.arange(60 if chosen.small else len(data.X)))
    for name, table in result.items():
        for of, line in table.items():
            told = (
                f"{who} {told['pearson']}, zero {told['predicted as 0']}, {told['seconds']:.2f} s"
                for who, told in line.items()
            )
            print(f"{name}, {of}: {'; '.join(told)}")
    picture(result).savefig(chosen.out / "set_measures.png", dpi=160)
    common.publish(result, chosen.out / "set_measures.json")


if __name__ == "__main__":
    main()
