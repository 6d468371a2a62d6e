"""Inputs and labels in every form that users have them."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, N, X
from upweight import Influence, from_estimator
from upweight.data.design_on_disk import opened
from upweight.estimators.user_data import Inputs, Targets, check_columns
from upweight.linear.kernel_features import FeatureMap


def test_other_columns_than_at_fit():
    frame = pd.DataFrame(X[:N], columns=["a", "b", "c"])
    model = LogisticRegression(**TIGHT).fit(frame, TARGETS["two"][:N])
    influence = Influence(from_estimator(model, frame, TARGETS["two"][:N]))
    for other, words in [
        (frame.rename(columns={"b": "d"}), r"missing \['b'\]; unexpected \['d'\]"),
        (frame[["a", "b"]], r"missing \['c'\]"),
        (frame.assign(e=0.0), r"unexpected \['e'\]"),
        (frame[["b", "a", "c"]], r"reordered: \['b', 'a', 'c'\] instead of \['a', 'b', 'c'\]"),
        (X[:N, :2], "X has 2 columns, the estimator was fitted on 3"),
    ]:
        with pytest.raises(ValueError, match=words):
            from_estimator(model, other, TARGETS["two"][:N])
        with pytest.raises(ValueError, match=words):
            influence.on_loss((other, TARGETS["two"][:N]))


UNKNOWING = SimpleNamespace()
"""An estimator that keeps neither the names of its columns nor their number."""


@pytest.mark.parametrize(
    ("given_dtype", "wanted"),
    [(np.float32, np.float32), (np.float64, np.float64), (np.int64, np.float64), (bool, np.float64)],
)
def test_inputs_become_arrays_of_floats(given_dtype, wanted):
    numbers = np.array([[0, 1, 1], [1, 0, 1]]).astype(given_dtype)
    inputs = Inputs(UNKNOWING, None)
    for form in (numbers, torch.from_numpy(numbers), numbers.tolist(), pd.DataFrame(numbers)):
        found = inputs(form)
        assert isinstance(found, np.ndarray)
        assert found.dtype == (wanted if not isinstance(form, list) else np.asarray(form).astype(float).dtype)
        assert np.array_equal(found, numbers.astype(found.dtype))
    kept = sparse.csr_array(numbers)
    assert inputs(kept) is kept, "sparse inputs stay sparse"


def test_inputs_pass_through_the_transformers_as_fitted():
    scaler = StandardScaler().fit(X[:N])
    inputs = Inputs(scaler, scaler)
    assert_close_per_row(inputs(X[N:]), (X[N:] - X[:N].mean(0)) / X[:N].std(0), 1e-12)
    words = np.array([["a"], ["b"], ["a"]], dtype=object)
    one_hot = OneHotEncoder().fit(words)
    assert sparse.issparse(Inputs(one_hot, one_hot)(words))
    assert Inputs(one_hot, one_hot)(words).toarray().tolist() == [[1, 0], [0, 1], [1, 0]]


def test_inputs_end_in_the_features_of_a_kernel():
    phi = FeatureMap.of(lambda A, B: A @ B.T, X[:N])
    assert_close_per_row(Inputs(UNKNOWING, None, phi)(X[N:]), phi(X[N:]), 1e-15)
    scaler = StandardScaler().fit(X[:N])
    assert_close_per_row(Inputs(scaler, scaler, phi)(X[N:]), phi(scaler.transform(X[N:])), 1e-15)


def test_what_is_on_disk_stays_there_and_is_not_given_to_transformers(tmp_path):
    np.save(tmp_path / "X.npy", X[:N])
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    model = LogisticRegression(**TIGHT).fit(X[:N], TARGETS["two"][:N])
    for form in (mapped, opened(mapped)):
        assert Inputs(model, None)(form) is form
        with pytest.raises(ValueError, match="X has 3 columns, the estimator was fitted on 2"):
            Inputs(SimpleNamespace(n_features_in_=2), None)(form)
    scaler = StandardScaler().fit(X[:N])
    assert_close_per_row(Inputs(scaler, scaler)(mapped), scaler.transform(X[:N]), 1e-15)
    for closed in (Inputs(scaler, scaler), Inputs(model, None, FeatureMap.of(lambda A, B: A @ B.T, X[:N]))):
        with pytest.raises(TypeError, match="X is streamed from disk, which a pipeline's transformers"):
            closed(opened(mapped))


@given(
    classes=st.lists(st.integers(-5, 5), min_size=1, max_size=6, unique=True),
    picked=st.lists(st.integers(0, 99), max_size=20),
    kind=st.sampled_from([int, str, float, bytes]),
)
def test_labels_become_their_place_among_the_classes(classes: list[int], picked: list[int], kind: Any):
    named = tuple(str(c).encode() if kind is bytes else kind(c) for c in classes)
    y = [named[i % len(named)] for i in picked]
    codes = Targets(named)(np.array(y, dtype=np.array(named).dtype))
    assert codes.dtype == np.int64
    assert [named[code] for code in codes] == y


def test_labels_in_every_form():
    targets = Targets(("no", "yes"))
    for form in (
        ["yes", "no"],
        np.array([["yes"], ["no"]]),  # one column
        pd.Series(["yes", "no"], index=[7, 8]),
        pd.Series(["yes", "no"], dtype="category"),
        pd.DataFrame({"y": ["yes", "no"]}),
    ):
        assert targets(form).tolist() == [1, 0]
    assert Targets((0, 1))(torch.tensor([1, 0])).tolist() == [1, 0]
    assert Targets((False, True))(np.array([True, False])).tolist() == [1, 0]


def test_numbers_stay_numbers_where_there_are_no_classes():
    y = np.arange(6, dtype=np.float32).reshape(3, 2)
    for form in (y, torch.from_numpy(y), y.tolist(), pd.DataFrame(y)):
        found = Targets(None)(form)
        assert found.dtype == np.float64
        assert np.array_equal(found, y)


def test_unseen_labels_are_named_once_each_with_the_first_place():
    with pytest.raises(
        ValueError, match=r"not fitted on: \['c', 'd'\], first in example 2; it knows \['a', 'b'\]"
    ):
        Targets(("a", "b"))(np.array(["a", "b", "c", "a", "d", "c"]))
    with pytest.raises(ValueError, match=r"y must have shape \(n,\), got \(2, 3\)"):
        Targets(("a", "b"))(np.full((2, 3), "a"))


def test_columns_are_compared_by_name_else_by_number():
    named = SimpleNamespace(feature_names_in_=np.array(["a", "b"]), n_features_in_=2)
    counting = SimpleNamespace(n_features_in_=2)
    frame = pd.DataFrame(np.ones((3, 2)), columns=["a", "b"])
    for estimator, given_X in (
        (named, frame),
        (named, frame.to_numpy()),
        (counting, frame.rename(columns={"a": "z"})),
        (counting, frame.to_numpy()),
        (counting, np.ones(3)),  # a column of texts has no second dimension
        (UNKNOWING, np.ones((3, 9))),
    ):
        check_columns(estimator, given_X)
    for estimator, given_X, words in (
        (named, frame[["b", "a"]], "reordered"),
        (named, frame.assign(c=0.0), r"unexpected \['c'\]"),
        (named, np.ones((3, 1)), "X has 1 columns, the estimator was fitted on 2"),
        (counting, np.ones((3, 3)), "X has 3 columns, the estimator was fitted on 2"),
    ):
        with pytest.raises(ValueError, match=words):
            check_columns(estimator, given_X)
    many = frame.assign(**{f"x{i}": 0.0 for i in range(30)})
    with pytest.raises(ValueError, match=r"unexpected \['x0'.*'x9'\]$"):  # no message of a thousand columns
        check_columns(named, many)


@pytest.mark.parametrize("table", [False, True])
def test_infinite_cells_are_told_before_a_transformer_meets_them(table):
    from sklearn.pipeline import make_pipeline

    data, y = np.random.default_rng(0).normal(size=(30, 3)), np.arange(30) % 2
    fitted = pd.DataFrame(data, columns=list("abc")) if table else data
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(fitted, y)
    data = data.copy()
    data[5, 1] = np.inf
    with pytest.raises(
        ValueError, match=f"X has an infinity, first in example 5{', column .b' if table else ''}"
    ):
        from_estimator(model, pd.DataFrame(data, columns=list("abc")) if table else data, y)
