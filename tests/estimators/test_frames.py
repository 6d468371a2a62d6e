"""Frames of polars and tables of Arrow as training data and questions: the answers are those of pandas."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import upweight as uw

N = 80
COLUMNS = ["age", "dose", "ward"]


def patients():
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"age": rng.normal(50, 15, N), "dose": rng.normal(size=N), "ward": rng.choice(["a", "b"], N)}
    )
    ill = table.age + 10 * (table.ward == "b") + rng.normal(0, 5, N) > 52
    return table.assign(state=np.where(ill, "ill", "well"), weight=np.linspace(1, 2, N), old=table.age > 60)


TABLE = patients()


def frame(kind: str, columns: list[str]) -> Any:
    if kind == "arrow":
        return pa.Table.from_pandas(TABLE[columns], preserve_index=False)
    return pytest.importorskip("polars").DataFrame({name: TABLE[name].tolist() for name in columns})


def column(kind: str, name: str) -> Any:
    if kind == "arrow":
        return pa.chunked_array([TABLE[name].tolist()])
    return pytest.importorskip("polars").Series(name, TABLE[name].tolist())


def pipeline(model):
    columns = make_column_transformer((StandardScaler(), ["age", "dose"]), (OneHotEncoder(), ["ward"]))
    return make_pipeline(columns, model)


@pytest.fixture(params=["polars", "arrow"])
def kind(request):
    return request.param


def same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("own", [True, False], ids=["fitted on it", "fitted on pandas"])
def test_a_pipeline_answers_as_on_pandas(kind, own):
    X, y = frame(kind, COLUMNS), column(kind, "state")
    fitted = pipeline(LogisticRegression()).fit(TABLE[COLUMNS], TABLE.state)
    expected = uw.Influence(uw.from_estimator(fitted, TABLE[COLUMNS], TABLE.state))
    model = pipeline(LogisticRegression()).fit(X, y) if own else fitted
    influence = uw.Influence(uw.from_estimator(model, X, y))
    batch, plain = (X[:3], y[:3]), (TABLE[COLUMNS][:3], TABLE.state[:3])
    same(influence.of_each_removal(batch).effect(), expected.of_each_removal(plain).effect())
    explained = uw.explain(influence, (X[:1], y[:1]), k=3)
    assert explained.helpful.index.tolist() == (
        uw.explain(expected, (TABLE[COLUMNS][:1], TABLE.state[:1]), k=3).helpful.index.tolist()
    )
    assert explained.label == TABLE.state[0]
    checked = uw.verify(influence, (X[:1], y[:1]), k=5)
    assert checked.top.pearson > 0.99
    assert checked.estimator is not None
    pd.testing.assert_frame_equal(
        uw.mislabeled(influence, validation=(X, y)).table,
        uw.mislabeled(expected, validation=(TABLE[COLUMNS], TABLE.state)).table,
    )


def test_groups_and_masks_are_columns_by_position(kind):
    X, y = TABLE[COLUMNS].set_index(TABLE.index.map("patient {}".format)), TABLE.state.to_numpy()
    influence = uw.Influence(uw.from_estimator(pipeline(LogisticRegression()).fit(X, y), X, y))
    batch = X[:3], y[:3]
    by_ward = influence.of_removal(column(kind, "ward"), batch)
    expected = influence.of_removal(TABLE.ward.to_numpy(), batch)
    assert by_ward.groups.tolist() == expected.groups.tolist()
    same(by_ward.newton, expected.newton)
    masked = influence.of_removal(column(kind, "old"), batch)
    same(masked.newton, influence.of_removal(TABLE.old.to_numpy(), batch).newton)
    measure = uw.measures.gap(uw.measures.selection_rate, column(kind, "ward"))
    assert influence.leave_one_out().change((X, y), measure=measure).shape == (1, N)


def test_a_mask_with_missing_entries_is_refused(kind):
    given = [None, *TABLE.old.tolist()[1:]]
    mask = pa.array(given) if kind == "arrow" else pytest.importorskip("polars").Series(given)
    X, y = TABLE[["age", "dose"]], TABLE.dose
    influence = uw.Influence(uw.from_estimator(Ridge().fit(X, y), X, y))
    with pytest.raises(ValueError, match="says neither yes nor no of 1 rows, first of row number 0"):
        influence.of_removal(mask, (X[:1], y[:1]))


def test_numbers_and_weights_of_a_model_without_transformers(kind):
    numbers, weights = ["age", "dose"], TABLE.weight.to_numpy()
    model = LogisticRegression(C=0.01).fit(TABLE[numbers], TABLE.state, sample_weight=weights)
    X, y = frame(kind, numbers), column(kind, "state")
    problem = uw.from_estimator(model, X, y, sample_weight=column(kind, "weight"))
    expected = uw.from_estimator(model, TABLE[numbers], TABLE.state, sample_weight=weights)
    same(problem.gradient(), expected.gradient())
    assert problem.feature_names == ("age", "dose")
    assert problem.train_index is None
    with pytest.raises(ValueError, match=r"missing \['dose'\]; unexpected \['weight'\]"):
        uw.from_estimator(model, frame(kind, ["age", "weight"]), y)


def test_refits_take_them_and_know_them_again(kind):
    X, y = frame(kind, COLUMNS), column(kind, "state")
    refits, expected = (
        uw.by_refitting(pipeline(KNeighborsClassifier()), inputs, targets, refits=40)
        for inputs, targets in ((X, y), (TABLE[COLUMNS], TABLE.state.to_numpy()))
    )
    batch, plain = (X[:3], y[:3]), (TABLE[COLUMNS][:3], TABLE.state[:3].to_numpy())
    found = refits.of_each_removal(batch, [0, 5])
    same(found.effect(), expected.of_each_removal(plain, [0, 5]).effect())
    assert refits.fingerprint == uw.by_refitting(pipeline(KNeighborsClassifier()), X, y).fingerprint


def test_a_lazy_frame_is_to_be_collected():
    lazy = pytest.importorskip("polars").DataFrame({"age": TABLE.age.tolist()}).lazy()
    model = Ridge().fit(TABLE[["age"]], TABLE.dose)
    with pytest.raises(TypeError, match=r"give X.collect\(\)"):
        uw.from_estimator(model, lazy, TABLE.dose)
