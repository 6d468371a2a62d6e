"""Wrong labels among the rows of boosted trees: what finds them, beside cleanlab with the same booster.

    python -m experiments trees_labels            four tables, ten draws of wrong labels: about ten minutes
    python -m experiments trees_labels --small    wine, one draw

Ten percent of the labels of each table, drawn anew by each seed, become another class. HistGradientBoosting of 50 trees
is trained on all rows. Told is the share of the wrong labels among the first 10 and 20 % of the rows, as ordered by

- `mislabeled`: `upweight.mislabeled`, the loss out of fold by fits of the estimator;
- `loss`: of the model trained on all rows;
- `loss without the row`: the same with its change by the row's removal, of first order;
- `self-influence`: `Influence.on_self`;
- `cleanlab`: the label quality of `CleanLearning` with the same estimator and five folds, where cleanlab is installed.

The bar: `mislabeled` is not below the better of loss and cleanlab by more than 2 points. Beside the means stands by how
much it is above each of the two, paired by draws, with half of the 95 % interval: a few draws do not tell.

Writes trees_labels.json and trees_labels.png. The hospital's table needs UPWEIGHT_DATA_DIR.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from sklearn import datasets
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingClassifier

import upweight as uw
from experiments import common
from upweight.evaluation import detection

WRONG = 0.1
ALLOWED = 0.02


def hospital() -> tuple[np.ndarray, np.ndarray]:
    """2,000 patients of the experiment `sec53_hospital`."""
    from experiments.sec53_hospital import load

    patients, _ = load()
    order = np.random.default_rng(0).permutation(len(patients.y))[:2000]
    return patients.X.numpy()[order], (patients.y.numpy()[order] > 0).astype(int)


SETS: dict[str, Callable[[], Any]] = {
    "wine": lambda: datasets.load_wine(return_X_y=True),
    "breast_cancer": lambda: datasets.load_breast_cancer(return_X_y=True),
    "digits": lambda: datasets.load_digits(return_X_y=True),
    "hospital": hospital,
}


def suspicions(model: Any, X: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
    """How suspicious each row is to each way."""
    influence = uw.Influence(uw.from_estimator(clone(model).fit(X, y), X, y))
    loss, own = influence.problem.train_losses().numpy(), -influence.on_self().values[0].numpy()
    order = uw.mislabeled(influence).table.index.to_numpy()
    found = {
        "mislabeled": -np.argsort(order).astype(float),
        "loss": loss,
        "loss without the row": loss + own / len(y),
        "self-influence": own,
    }
    try:
        from cleanlab.classification import CleanLearning
    except ImportError as missing:
        print(missing)
        return found
    cleaned = CleanLearning(clone(model), seed=0, cv_n_folds=5, verbose=False)
    return found | {"cleanlab": -cleaned.find_label_issues(X, y)["label_quality"].to_numpy()}


def one(X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, tuple[float, float]]:
    """Recalls at 10 and 20 % of the rows for one draw of wrong labels."""
    rng, classes = np.random.default_rng(seed), len(np.unique(y))
    wrong = rng.permutation(len(y)) < round(WRONG * len(y))
    labels = np.where(wrong, (y + rng.integers(1, classes, len(y))) % classes, y)
    # Trees of many classes with few rows: fewer leaves, so that the answers of all ways take seconds.
    model = HistGradientBoostingClassifier(max_iter=50 if classes < 4 else 20, max_leaf_nodes=15)
    each = {name: detection(how, wrong) for name, how in suspicions(model, X, labels).items()}
    return {name: (found.recall_10, found.recall_20) for name, found in each.items()}


def above(each: list[dict[str, tuple[float, float]]], way: str) -> dict[str, Any]:
    """By how much the recalls of `mislabeled` are above those of another way, and half of the 95 % intervals."""
    gaps = np.array([np.subtract(found["mislabeled"], found[way]) for found in each])
    half = None if len(gaps) == 1 else (1.96 * gaps.std(0, ddof=1) / np.sqrt(len(gaps))).tolist()
    return {"mean": gaps.mean(0).tolist(), "half interval": half}


def picture(result: dict[str, Any]) -> Figure:
    """Recalls at 20 % of the rows."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis = figure.subplots()
    for name in next(iter(result.values()))["recall"]:
        axis.plot(list(result), [table["recall"][name][1] for table in result.values()], "o", label=name)
    axis.set(ylabel="share of wrong labels in the first 20 % of the rows", ylim=(0, 1.02))
    axis.legend()
    return figure


def main(argv: Sequence[str] | None = None) -> None:
    """The experiment as a command."""
    parser = common.parser(__name__, __doc__, "wine, one draw of wrong labels")
    parser.add_argument("--seeds", type=int, default=10, help="draws of wrong labels")
    parser.add_argument("--data", nargs="+", choices=list(SETS), help="these tables alone")
    chosen = common.options(parser, argv)
    names = list(SETS)[: 3 if "UPWEIGHT_DATA_DIR" not in os.environ else None]
    result = {}
    for name in names[:1] if chosen.small else chosen.data or names:
        X, y = SETS[name]()
        each = [one(X, y, seed) for seed in range(1 if chosen.small else chosen.seeds)]
        recall = {way: np.mean([found[way] for found in each], axis=0).tolist() for way in each[0]}
        ahead = {way: above(each, way) for way in ("loss", "cleanlab") if way in recall}
        best = np.max([recall[way] for way in ("loss", "cleanlab") if way in recall], axis=0)
        lost = float((best - recall["mislabeled"]).max())
        known = {"n": len(y), "recall": recall, "mislabeled above": ahead}
        result[name] = {**known, "below the better": lost, "good": lost <= ALLOWED}
        print(name, result[name], flush=True)
    picture(result).savefig(chosen.out / "trees_labels.png", dpi=160)
    common.publish(result, chosen.out / "trees_labels.json")


if __name__ == "__main__":
    main()
