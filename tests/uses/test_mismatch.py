"""Groups that drive errors: on data where the group is known, against removals asked directly."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import HistGradientBoostingClassifier

import upweight as uw
from tests.support.cases import BY_NAME, draw
from tests.support.classifiers import N, blobs, network
from tests.support.compare import assert_close_per_row


def test_the_group_with_other_labels_drives_the_errors() -> None:
    X = torch.cat([draw(N, 2, seed=3), (torch.arange(N) % 10 == 0).double()[:, None]], dim=1)
    y = torch.where(X[:, 2] > 0, X[:, 0] < 0, X[:, 0] > 0).long()
    column = np.where(X[:, 2] > 0, "children", "adults")
    problem = uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.01)
    slice_ = X[column == "adults"][:20], y[column == "adults"][:20]
    influence = uw.Influence(problem)
    found = uw.mismatch(influence, slice_, by=column)
    assert found.groups.index[0] == "children"
    assert found.groups["effect of removal"].iloc[0] < 0
    children = torch.as_tensor((column == "children").nonzero()[0])
    refit = problem.without(children).minimised(1e-10)
    actual = float((refit.evaluate(slice_) - problem.evaluate(slice_)).mean())
    # Twelve rows that contradict all others: no small change, but Newton steps settle at the refit.
    assert found.groups["effect of removal"].iloc[0] == pytest.approx(actual, rel=5e-3)
    assert found.features["feature"].iloc[0] == "column 0"
    assert "children" in repr(found)


GROUPS = {"a": [0, 1, 2], "b": [3, 4], "c": [10, 11, 12, 13]}


@pytest.mark.parametrize("name", ["softmax", "logistic sparse intercept weights", "squared"])
def test_effects_are_those_of_removals_averaged_over_the_slice(name: str) -> None:
    case = BY_NAME[name]
    influence = uw.Influence(case.problem)
    found = uw.mismatch(influence, case.test, by=GROUPS).groups
    removal = influence.of_removal(GROUPS, case.test)
    assert removal.newton is not None
    for name_, wanted in {
        "size": removal.sizes.double(),
        "effect of removal": removal.newton.mean(0),
        "per row": removal.newton.mean(0) / removal.sizes,
        "first order": removal.first_order.mean(0),
    }.items():
        assert_close_per_row(found[name_].loc[list(GROUPS)].to_numpy(), wanted, 1e-8)
    assert found["effect of removal"].is_monotonic_increasing


def test_networks_have_effects_of_first_order_and_no_columns() -> None:
    problem, (X, y) = network()
    influence = uw.Influence(problem)
    found = uw.mismatch(influence, (X[:4], y[:4]), by=GROUPS)
    wanted = influence.on_loss((X[:4], y[:4])).removal_effect().mean(0)
    effects = torch.stack([wanted[rows].sum() for rows in GROUPS.values()])
    assert_close_per_row(found.groups["effect of removal"].loc[list(GROUPS)].to_numpy(), effects, 1e-10)
    assert found.groups["effect of removal"].equals(found.groups["first order"])
    assert found.features.empty
    assert list(found.features) == ["feature", "part of first order"]


@pytest.mark.parametrize("rows", [2, 1024])
def test_parts_of_columns_add_up_to_the_groups_effect(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["upweight.uses.mismatch"], "ROWS", rows)
    problem = blobs(2)
    influence, test = uw.Influence(problem), problem.train_batch(torch.arange(60, 80))
    found = uw.mismatch(influence, test, by=GROUPS)
    worst = torch.tensor(GROUPS[found.groups.index[0]])
    s = influence.solve(problem.test_gradients(test)).value.mean(0)
    through = (problem.train_gradients(worst) * s).sum(0) / problem.n
    wanted = problem.layout.unpack(through - problem.folded_penalty * s * len(worst) / problem.n)
    parts = dict(zip(found.features["feature"], found.features["part of first order"], strict=True))
    for j in range(3):
        assert parts[f"column {j}"] == pytest.approx(float(wanted["weight"][0, j]), rel=1e-8)
    assert sum(parts.values()) == pytest.approx(found.groups["first order"].iloc[0], rel=1e-9)
    assert found.features["part of first order"].abs().is_monotonic_decreasing


def test_columns_that_are_not_named_are_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["upweight.uses.mismatch"], "FEATURES", 2)
    problem = blobs(2)
    found = uw.mismatch(uw.Influence(problem), problem.train_batch(torch.arange(60, 80)), by=GROUPS)
    assert found.features["feature"].iloc[-1] == "the rest"
    assert found.features["part of first order"].sum() == pytest.approx(found.groups["first order"].iloc[0])


def test_a_column_of_labels_names_the_groups() -> None:
    problem = blobs(3)
    kinds = pd.Series(["old", "new", "new"] * 40)
    found = uw.mismatch(uw.Influence(problem), problem.train_batch(torch.arange(5)), by=kinds)
    assert sorted(found.groups.index) == ["new", "old"]
    assert found.groups["size"].to_dict() == {"old": 40, "new": 80}
    assert f"Columns responsible in group {found.groups.index[0]!r}" in repr(found)
    assert "<table" in found._repr_html_()


def test_groups_that_are_none_are_refused() -> None:
    problem = blobs(2)
    with pytest.raises(ValueError, match="group 'a' is empty"):
        uw.mismatch(uw.Influence(problem), problem.train_batch(torch.arange(2)), by={"a": []})


def test_groups_of_trees_have_the_effect_of_leaves_computed_anew() -> None:
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    by = np.where(X["mean radius"] > X["mean radius"].median(), "large", "small")
    model = HistGradientBoostingClassifier(max_iter=20, l2_regularization=1.0).fit(X[:400], y[:400])
    influence = uw.Influence(uw.from_estimator(model, X[:400], y[:400]))
    slice_ = X[400:430], y[400:430]
    found = uw.mismatch(influence, slice_, by=by[:400])
    removal = influence.of_removal(by[:400], slice_)
    assert removal.recomputed is not None
    for group in ("large", "small"):
        place = list(removal.groups).index(group)
        line = found.groups.loc[group]
        assert line["effect of removal"] == pytest.approx(
            float(removal.recomputed[:, place].mean()), rel=1e-9
        )
        assert line["effect of removal"] != pytest.approx(line["first order"], rel=0.01)
    assert "leaf values computed anew" in repr(found)
