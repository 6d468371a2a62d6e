"""Sec. 5.3: four children that cause a domain mismatch, found among 20,000 hospital patients (R24).

    python -m experiments sec53_hospital            20,000 patients less 20 children, seconds
    python -m experiments sec53_hospital --small    every tenth of them, all children kept

The table is made as the paper's code makes it: 8 numeric columns unscaled and 31 categorical ones as indicators (two
categories: one column, otherwise one per category), 127 columns, no intercept; readmitted within 30 days is +1. Left
out are the identifiers, weight, payer, specialty, admission type and source, and the diagnoses. The split is the code's
too: NumPy's legacy generator with seed 2 shuffles the positives, then the negatives, and 10,000 of each train.

Writes sec53_hospital.png and sec53_hospital.json. Needs UPWEIGHT_DATA_DIR with diabetic_data.parquet.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

import upweight as uw
from experiments import common
from experiments.data import folder

L2 = 1e-4
NUMBERS = [
    "time_in_hospital",
    "num_lab_procedures",
    "num_procedures",
    "num_medications",
    "number_outpatient",
    "number_emergency",
    "number_inpatient",
    "number_diagnoses",
]
LEFT_OUT = [
    "encounter_id",
    "patient_nbr",
    "weight",
    "payer_code",
    "medical_specialty",
    "admission_type_id",
    "admission_source_id",
    "diag_1",
    "diag_2",
    "diag_3",
    "readmitted",
]
CHILD = "age_[0-10)"


class Patients(NamedTuple):
    """Indicators and numbers X (n, 127), readmission y (n,) as -1/+1."""

    X: torch.Tensor
    y: torch.Tensor

    def take(self, rows: np.ndarray) -> Patients:
        """Those patients."""
        return Patients(self.X[rows], self.y[rows])


def load() -> tuple[Patients, list[str]]:
    """All 101,766 patients and the names of the columns."""
    table = pd.read_parquet(folder() / "diabetic_data.parquet")
    parts = [table[NUMBERS]]
    for name in table.columns.drop([*NUMBERS, *LEFT_OUT]):
        column = table[name].astype("category")
        parts.append(pd.get_dummies(column, prefix=name, drop_first=len(column.cat.categories) == 2))
    X = pd.concat(parts, axis=1)
    y = np.where(table["readmitted"] == "<30", 1, -1)
    return Patients(torch.from_numpy(X.to_numpy(np.float64)), torch.from_numpy(y)), list(X.columns)


def split(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers: 10,000 readmitted and 10,000 others to train on, and the rest."""
    random = np.random.RandomState(2)
    classes = [np.flatnonzero(y == 1), np.flatnonzero(y == -1)]
    for rows in classes:
        random.shuffle(rows)
    train, test = (
        np.concatenate([rows[part] for rows in classes]) for part in (np.s_[:10000], np.s_[10000:])
    )
    random.shuffle(train)
    random.shuffle(test)
    return train, test


class Study(NamedTuple):
    """The training set with and without the children that leave it, the test set, and the column that says child."""

    before: Patients
    train: Patients
    test: Patients
    columns: list[str]
    child: int


def study(small: bool = False) -> Study:
    """All children who are not readmitted leave but the last."""
    everyone, columns = load()
    train_rows, test_rows = split(everyone.y.numpy())
    original, column = everyone.take(train_rows), columns.index(CHILD)
    child = original.X[:, column] == 1
    gone = (child & (original.y == -1)).nonzero()[:-1, 0]
    rows = np.arange(len(train_rows))
    if small:
        rows = rows[(rows % 10 == 0) | child.numpy()]
    left = original.take(np.setdiff1d(rows, gone))
    return Study(original.take(rows), left, everyone.take(test_rows), columns, column)


def fit(patients: Patients) -> uw.LinearProblem:
    """Logistic regression to a gradient norm of 1e-9."""
    return uw.LinearProblem.fit(*patients, loss=uw.Logistic(), l2=L2)


def dense_scores(
    problem: uw.LinearProblem, train: Patients, test: Patients, *, folded: bool = True
) -> np.ndarray:
    """-I_up,loss from NumPy's explicit Hessian, written without the library: what the scores are held against.

    `folded` says whether the penalty is a part of every training gradient.
    """
    X, y, theta = train.X.numpy(), train.y.numpy(), problem.params["weight"][0].numpy()
    X_test, y_test = test.X.numpy(), test.y.numpy()
    p = 1 / (1 + np.exp(-(X @ theta)))
    H = (X * (p * (1 - p))[:, None]).T @ X / len(y) + L2 * np.eye(X.shape[1])
    gradients = (-y / (1 + np.exp(y * (X @ theta))))[:, None] * X + folded * L2 * theta
    test_gradients = (-y_test / (1 + np.exp(y_test * (X_test @ theta))))[:, None] * X_test
    return test_gradients @ np.linalg.solve(H, gradients.T)


def clock(problem: uw.LinearProblem, test: Patients) -> float:
    """Median seconds of 5 from fitted coefficients to all scores: Hessian, factor, solves, products, nothing cached."""
    seconds = []
    for _ in range(5):
        fresh = problem.at(problem.theta)
        began = time.perf_counter()
        uw.Influence(fresh).on_loss(test)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds))


def one_child(
    influence: uw.Influence, train: Patients, child: Patients, children: np.ndarray, column: int
) -> dict[str, Any]:
    """The scores on one test child: the training children against all others, and the indicator's share."""
    scores = -np.asarray(influence.on_loss(child))[0]
    others = np.abs(np.delete(scores, children)).max()
    inputs = influence.on_inputs(train.take(children), child)[0]
    # x_j I_pert_j: what x_j going to 0 undoes, on the scale of I_up.
    parts = -(inputs * train.X[children]).numpy()
    names = ("row", "label", "score", "times_the_next", "child_indicator_share", "largest_part")
    found = [
        dict(
            zip(
                names,
                (
                    int(row),
                    int(train.y[row]),
                    float(scores[row]),
                    float(abs(scores[row]) / others),
                    float(part[column] / scores[row]),
                    int(np.abs(part).argmax()),
                ),
                strict=True,
            )
        )
        for row, part in zip(children, parts, strict=True)
    ]
    return {"children": found, "next_largest": float(others), "scores": scores}


def draw(shown: dict[str, Any], problem: uw.LinearProblem, columns: list[str], path: Path) -> None:
    """Sorted scores with the children marked; coefficients with the indicator marked; the parts of I_pert."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    scores = shown["scores"]
    left.plot(np.sort(scores), ".", markersize=3, color="0.6", label="all training patients")
    ranks = np.argsort(np.argsort(scores))
    for child in shown["children"]:
        back = child["label"] == 1
        left.plot(
            ranks[child["row"]],
            child["score"],
            "^" if back else "o",
            color="#D55E00" if back else "#009E73",
            label=f"child, {'readmitted' if back else 'not readmitted'}: {child['times_the_next']:.0f} times the next",
        )
    left.set(title="a wrongly predicted test child", xlabel="rank", ylabel=r"$-I_{up,loss}$ (> 0: helpful)")
    left.legend(fontsize="x-small", loc="center")
    weights = problem.params["weight"][0].numpy()
    order = np.argsort(-np.abs(weights))[:25]
    colours = ["#D55E00" if columns[j] == CHILD else "0.6" for j in order]
    right.barh([columns[j] for j in order][::-1], weights[order][::-1], color=colours[::-1])
    right.set(title="the largest coefficients")
    right.tick_params(axis="y", labelsize=6)
    figure.savefig(path, dpi=120)


def wrong_children(problem: uw.LinearProblem, found: Study) -> np.ndarray:
    """Test rows of the children that the model gets wrong."""
    rows = (found.test.X[:, found.child] == 1).nonzero()[:, 0]
    outputs = found.test.X[rows] @ problem.params["weight"][0]
    return rows[(outputs * found.test.y[rows]) < 0].numpy()


def accuracy(patients: Patients, weights: torch.Tensor) -> float:
    """The share that the model gets right."""
    return float(((patients.X @ weights) * patients.y > 0).double().mean())


def spread(results: list[dict[str, Any]], name: str) -> dict[str, float]:
    """The smallest, median and largest of a number over all training children and test children."""
    values = np.array([[child[name] for child in result["children"]] for result in results])
    return {"smallest": values.min(), "median": float(np.median(values)), "largest": values.max()}


def counted(before: uw.LinearProblem, problem: uw.LinearProblem, found: Study) -> dict[str, Any]:
    """How many children there are and are got wrong, and how little the coefficients say of it."""
    children, kept = (part.y[part.X[:, found.child] == 1] for part in (found.before, found.train))
    wrong = wrong_children(problem, found)
    weights, column = problem.params["weight"][0], found.child
    return {
        "children_in_full_training_set": [int((children == 1).sum()), len(children)],
        "children_kept": [int((kept == 1).sum()), len(kept)],
        "test_children": int((found.test.X[:, column] == 1).sum()),
        "test_children_wrong_before": len(wrong_children(before, found)),
        "test_children_wrong": len(wrong),
        "of_these_not_readmitted": int((found.test.y[wrong] == -1).sum()),
        "train_accuracy": accuracy(found.train, weights),
        "test_accuracy": accuracy(found.test, weights),
        "child_coefficient": float(weights[column]),
        "coefficients_larger": int((weights > weights[column]).sum()),
        "coefficients_larger_in_size": int((weights.abs() > weights[column].abs()).sum()),
    }


def checked(problem: uw.LinearProblem, found: Study) -> dict[str, Any]:
    """Seconds to all scores, and their error against NumPy."""
    torch.set_num_threads(2)
    timed = {f"seconds_{m}_test_points": clock(problem, found.test.take(np.arange(m))) for m in (1, 100)}
    some = found.test.take(np.arange(100))
    exact = dense_scores(problem, found.train, some)
    scores = -np.asarray(uw.Influence(problem.at(problem.theta)).on_loss(some))
    off = np.linalg.norm(scores - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return {**timed, "threads": torch.get_num_threads(), "largest_error_of_a_row": float(off.max())}


def main(argv: Sequence[str] | None = None) -> None:
    """Run, print, write the picture and the numbers."""
    options = common.options(common.parser(__name__, __doc__, "every tenth patient, all children"), argv)
    found = study(options.small)
    train, test = found.train, found.test
    before, problem = fit(found.before), fit(train)
    influence = uw.Influence(problem)
    children = (train.X[:, found.child] == 1).nonzero()[:, 0].numpy()
    # The children that the mismatch harms: not readmitted, predicted to be.
    mistaken = wrong_children(problem, found)
    harmed = mistaken[test.y[mistaken].numpy() == -1]
    results = [
        one_child(influence, train, test.take(harmed[[i]]), children, found.child) for i in range(len(harmed))
    ]
    result: dict[str, Any] = {
        "small": options.small,
        "n": problem.n,
        "p": problem.p,
        "n_test": len(test.y),
        "gradient_norm": float(problem.gradient().norm()),
        **counted(before, problem, found),
        "shown_test_row": int(harmed[0]),
        "shown": results[0]["children"],
        "signs_right_in_all": all(
            (child["score"] > 0) == (child["label"] == -1) for part in results for child in part["children"]
        ),
        "times_the_next_all": spread(results, "times_the_next"),
        "child_indicator_share_all": spread(results, "child_indicator_share"),
        **checked(problem, found),
        "solver": str(influence.settings),
    }
    common.publish(result, options.out / "sec53_hospital.json")
    draw(results[0], problem, found.columns, options.out / "sec53_hospital.png")
