"""Which rows decide what boosted trees say: sets that flip a prediction, judged by retraining, beside random sets.

    python -m experiments trees_flips            three data sets, five libraries: 20 minutes
    python -m experiments trees_flips --small    breast cancer and scikit-learn's GradientBoosting alone, three rows

Tables and boosters are those of the experiment `trees`. For each of 20 test rows `uw.flip_set` looks for at most three
tenths of the training rows without which the prediction is another one. Judged by trainings of the same estimator with
the same seed, and by what it predicts itself:

- `found`: the share of the test rows with such a set, and `confirmed`, that of these sets whose removal does flip it
  (1, or the search is wrong); `rows`: their sizes, quartiles.
- `at fixed splits`: the share of the test rows with a set that flips it where leaf values are computed anew and the
  splits stay, the quartiles of their sizes, and the share of these sets that retraining confirms as they are.
- `random`: the share of random sets of the same sizes as the found ones that flip it, three for each.
- `random at fixed splits`: the same for the sizes of those.

Writes trees_flips.json and trees_flips.png. Libraries that are not installed are left out; the hospital's table needs
UPWEIGHT_DATA_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn.base import clone

import upweight as uw
from experiments import common
from experiments.trees import LIBRARIES, SETS, Table, boosters

SHARE, RANDOM = 0.3, 3


class Judge:
    """Trainings of an estimator without some rows of a table, and what they say of its test rows."""

    def __init__(self, model: Any, table: Table, seed: int = 0) -> None:
        self.model, self.table = model, table
        self.draw = np.random.default_rng(seed)
        self.said = self.without(np.empty(0, int))

    def without(self, rows: np.ndarray) -> np.ndarray:
        """What training without those rows says of each test row."""
        kept = np.setdiff1d(np.arange(len(self.table.y)), rows)
        fitted = clone(self.model).fit(self.table.X[kept], self.table.y[kept])
        return np.ravel(fitted.predict(self.table.X_test))

    def flips(self, rows: np.ndarray, i: int) -> bool:
        """Whether training without those rows says something else of a test row."""
        return bool(self.without(rows)[i] != self.said[i])

    def random(self, size: int, i: int) -> float:
        """The share of random sets of so many rows whose removal flips it."""
        sets = [self.draw.choice(len(self.table.y), size, replace=False) for _ in range(RANDOM)]
        return float(np.mean([self.flips(rows, i) for rows in sets]))


def quartiles(sizes: list[int]) -> list[float]:
    """The quartiles of some sizes, none where there are none."""
    return [float(q) for q in np.quantile(sizes, [0.25, 0.5, 0.75])] if sizes else []


def mean(values: list[Any]) -> float | None:
    """The mean of some numbers, None where there are none."""
    return float(np.mean(values)) if values else None


def one(model: Any, table: Table, count: int) -> dict[str, Any]:
    """All figures of one booster on one table."""
    influence = uw.Influence(uw.from_estimator(clone(model).fit(table.X, table.y), table.X, table.y))
    judge, most = Judge(model, table), round(SHARE * len(table.y))
    found: dict[str, list[Any]] = {"rows": [], "confirmed": [], "random": []}
    fixed: dict[str, list[Any]] = {"rows": [], "confirmed": [], "random": []}
    refits = []
    for i in range(count):
        flip = uw.flip_set(influence, (table.X_test[[i]], table.y_test[[i]]), most=most)
        refits.append(flip.refits)
        for rows, its in ((flip.rows, found), (flip.at_fixed_splits, fixed)):
            if rows is not None and len(rows):
                its["rows"].append(len(rows))
                its["confirmed"].append(judge.flips(rows.numpy(), i))
                its["random"].append(judge.random(len(rows), i))
    return {
        "found": len(found["rows"]) / count,
        "rows": quartiles(found["rows"]),
        "confirmed": mean(found["confirmed"]),
        "random": mean(found["random"]),
        "at fixed splits": {
            "found": len(fixed["rows"]) / count,
            "rows": quartiles(fixed["rows"]),
            "confirmed": mean(fixed["confirmed"]),
            "random": mean(fixed["random"]),
        },
        "trainings": mean(refits),
        "sizes": found["rows"],
    }


def picture(result: dict[str, Any]) -> Figure:
    """How large the found sets are, of each booster on each table."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name, libraries in result.items():
        for library, line in libraries.items():
            sizes = np.sort(line["sizes"])
            axis.step(sizes, np.arange(1, len(sizes) + 1) / 20, where="post", label=f"{name}, {library}")
    axis.set(xscale="log", xlabel="rows whose removal flips a prediction", ylabel="share of the test rows")
    axis.legend(fontsize=6)
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    parser = common.parser(__name__, __doc__, "breast cancer, GradientBoosting, three test rows")
    tables = [name for name in SETS if name != "diabetes"]
    parser.add_argument("--data", nargs="+", choices=tables, help="these tables alone")
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="these alone")
    chosen = common.options(parser, argv)
    there = tables[: 2 if "UPWEIGHT_DATA_DIR" not in os.environ else None]
    result: dict[str, Any] = {}
    for name in ["breast_cancer"] if chosen.small else chosen.data or there:
        table, known = SETS[name](), boosters(classes=True)
        result[name] = {}
        for library in [own for own in chosen.libraries if own in known][: 1 if chosen.small else None]:
            result[name][library] = one(known[library], table, 3 if chosen.small else len(table.y_test))
            print(name, library, result[name][library], flush=True)
    picture(result).savefig(chosen.out / "trees_flips.png", dpi=160)
    common.publish(result, chosen.out / "trees_flips.json")


if __name__ == "__main__":
    main()
