"""How right is the number that is shown? Effects of single removals on ten public data sets, against refits.

    python -m experiments shown_effects            ten data sets, 30 removals each: some minutes
    python -m experiments shown_effects --small    three of scikit-learn's, 8 removals each

Of each data set a linear model is fitted by scikit-learn, and the user's own estimator is fitted again without single
rows drawn at random. Compared with the changes of the test losses are

- `newton`: what `explain`, the report and the command line show (`Influence.of_each_removal`);
- `first order`: Eq. 2 (`Influence.on_loss`);
- `pyinfluence`: InfluenceFunctions of pyinfluence 0.5.0 with its own settings, where it is there and takes the model.

The slope is that of the least-squares line of actual on predicted through the origin, the error is
||predicted - actual|| / ||actual||, over all test rows and removals. The bar is a slope of 0.99 to 1.01 and an error of
at most 3 %.

Writes shown_effects.json and shown_effects.png. Six data sets come with scikit-learn; hospital, mails, digits 1 and 7
and photographs need UPWEIGHT_DATA_DIR and are left out without it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.special import logsumexp
from sklearn import datasets
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import upweight as uw
from experiments import common
from experiments.data import folder, ones_and_sevens

REMOVED, TESTED = 30, 100
SLOPE, ERROR = 0.01, 0.03
"""The bar: how far a slope may be from 1, and the relative error."""


class Data(NamedTuple):
    """Scaled columns X (n, d) and targets y (n,) or (n, c) to train on, and rows that are asked about."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def split(X: np.ndarray, y: np.ndarray, most: int = 1000) -> Data:
    """A fifth of the rows, at most TESTED, to ask about, and at most `most` others to train on."""
    order = np.random.default_rng(0).permutation(len(X))
    asked = min(TESTED, len(X) // 5)
    train, test = order[asked : asked + most], order[:asked]
    scaler = StandardScaler().fit(X[train])
    return Data(scaler.transform(X[train]), y[train], scaler.transform(X[test]), y[test])


def hospital() -> Data:
    """Patients of the experiment `sec53_hospital`, 127 columns."""
    from experiments.sec53_hospital import load

    patients, _ = load()
    readmitted, others = (np.flatnonzero(patients.y.numpy() == sign)[:600] for sign in (1, -1))
    rows = np.concatenate([readmitted, others])
    return split(patients.X.numpy()[rows], patients.y.numpy()[rows])


def mails() -> Data:
    """Mails by the frequencies of 300 words."""
    import pandas as pd
    from sklearn.feature_extraction.text import TfidfVectorizer

    table = pd.read_parquet(folder() / "enron1.parquet").sample(1000, random_state=0)
    words = TfidfVectorizer(max_features=300, stop_words="english").fit_transform(table["text"])
    return split(words.toarray(), table["spam"].to_numpy())


def ones_or_sevens() -> Data:
    """Digits 1 and 7, pixels in squares of four."""
    X, y, *_ = ones_and_sevens(small=False)
    squares = torch.nn.functional.avg_pool2d(X[:1000].view(-1, 1, 28, 28), 2).flatten(1)
    return split(squares.double().numpy(), y[:1000].numpy())


def photographs() -> Data:
    """Dogs and fish in 8 by 8 coloured squares."""
    from experiments.fig4_rbf import load

    flat, y, *_ = load(300)
    images = torch.from_numpy(flat).view(-1, 224, 224, 3).permute(0, 3, 1, 2).float()
    return split(torch.nn.functional.avg_pool2d(images, 28).flatten(1).double().numpy(), y)


def of_sklearn(name: str) -> Callable[[], Data]:
    """One of the data sets that come with scikit-learn."""
    return lambda: split(*getattr(datasets, f"load_{name}")(return_X_y=True))


SETS: dict[str, Callable[[], Data]] = {
    "breast_cancer": of_sklearn("breast_cancer"),
    "iris": of_sklearn("iris"),
    "diabetes": of_sklearn("diabetes"),
    "wine": of_sklearn("wine"),
    "linnerud": of_sklearn("linnerud"),
    "digits": of_sklearn("digits"),
    "hospital": hospital,
    "mails": mails,
    "ones and sevens": ones_or_sevens,
    "photographs": photographs,
}
OWN = 6
"""So many of them, the first, come with scikit-learn, three of them in the small size."""


def losses(model: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The loss of each row: that of the training, without penalty, from the estimator's own outputs."""
    if isinstance(model, Ridge):
        return 0.5 * ((model.predict(X) - y) ** 2).reshape(len(X), -1).sum(1)
    outputs = model.decision_function(X)
    if outputs.ndim == 1:
        return np.logaddexp(0, np.where(y == model.classes_[1], -outputs, outputs))
    return logsumexp(outputs, axis=1) - outputs[np.arange(len(X)), np.searchsorted(model.classes_, y)]


def agreement(predicted: np.ndarray, actual: np.ndarray) -> dict[str, float]:
    """Slope through the origin and relative error of predictions, over all test rows and removals."""
    size = float((predicted**2).sum())
    return {
        "slope": float((predicted * actual).sum()) / size,
        "error": float(np.linalg.norm(predicted - actual) / np.linalg.norm(actual)),
    }


def rival(model: Any, data: Data, rows: np.ndarray) -> np.ndarray | str:
    """What pyinfluence predicts, or why not."""
    try:
        from pyinfluence import InfluenceFunctions
    except ImportError:
        return "not installed"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = InfluenceFunctions().fit(model, data.X, data.y).explain(data.X_test, data.y_test)
    except Exception as refusal:  # whatever it says
        return f"refused: {str(refusal)[:80]}"
    return np.asarray(found)[:, rows]


def judged(data: Data, removed: int) -> dict[str, Any]:
    """The predictions about one data set, against refits of the estimator."""
    numbers = data.y.ndim > 1 or len(np.unique(data.y)) > 20
    model = Ridge(1.0) if numbers else LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-10)
    model.fit(data.X, data.y)
    rows = np.random.default_rng(1).permutation(len(data.X))[:removed]
    before = losses(model, data.X_test, data.y_test)
    actual = []
    for row in rows:
        kept = np.delete(np.arange(len(data.X)), row)
        again = clone(model).fit(data.X[kept], data.y[kept])
        actual.append(losses(again, data.X_test, data.y_test) - before)
    changes = np.stack(actual, axis=1)
    influence = uw.Influence(uw.from_estimator(model, data.X, data.y))
    start = time.process_time()
    shown = influence.of_each_removal((data.X_test, data.y_test))
    seconds = time.process_time() - start
    first = shown.removal_effect if shown.changes is None else uw.Scores(shown.values, shown.n).removal_effect
    found: dict[str, Any] = {
        "estimator": str(model),
        "rows, columns, asked": [*data.X.shape, len(before)],
        "removed": len(rows),
        "newton": agreement(shown.removal_effect().numpy()[:, rows], changes),
        "first order": agreement(first().numpy()[:, rows], changes),
        "processor seconds for all rows": seconds,
    }
    other = rival(model, data, rows)
    found["pyinfluence"] = other if isinstance(other, str) else agreement(other, changes)
    slope, error = found["newton"]["slope"], found["newton"]["error"]
    found["within the bar"] = abs(slope - 1) <= SLOPE and error <= ERROR
    return found


def picture(result: dict[str, Any]) -> Figure:
    """The relative error of each prediction on each data set."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, mark in (("newton", "o"), ("first order", "s"), ("pyinfluence", "x")):
        known = {of: line[name] for of, line in result.items() if isinstance(line[name], dict)}
        axis.plot(list(known), [line["error"] for line in known.values()], mark, label=name)
    axis.axhline(ERROR, color="0.6", linewidth=1)
    axis.set(yscale="log", ylabel="relative error of the effects")
    axis.tick_params(axis="x", rotation=45)
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    chosen = common.options(
        common.parser(__name__, __doc__, "three of scikit-learn's data sets, 8 removals each"), argv
    )
    names = list(SETS)[: 3 if chosen.small else OWN if "UPWEIGHT_DATA_DIR" not in os.environ else None]
    result = {name: judged(SETS[name](), 8 if chosen.small else REMOVED) for name in names}
    picture(result).savefig(chosen.out / "shown_effects.png", dpi=160)
    common.publish(result, chosen.out / "shown_effects.json")


if __name__ == "__main__":
    main()
