"""Data and pipelines in forms that scikit-learn takes: answered as in their plain form, or refused in a sentence."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from tests.support.compare import assert_close_per_row
from upweight import Influence, LinearProblem, Softmax, explain, from_estimator, mismatch

rng = np.random.default_rng(0)
N = 60
X = rng.normal(size=(N, 3))
VALUE = X[:, 0] + rng.normal(size=N)
TWO = (VALUE > 0).astype(int)
THREE = np.digitize(VALUE, [-0.5, 0.5])
TIGHT: dict[str, Any] = {"tol": 1e-10, "max_iter": 10_000}


def scores(model: Any, X: Any, y: Any, **options: Any) -> torch.Tensor:
    """Influence on the first three rows."""
    influence = Influence(from_estimator(model.fit(X, y, **options), X, y, **options))
    return influence.on_loss((X[:3], y[:3])).values


def test_classes_by_one_column_without_intercept():
    """Groups that are removed, against refits."""
    x = X[:, :1]
    problem = LinearProblem.fit(x, THREE, loss=Softmax(), outputs=3, l2=0.1)
    influence, test = Influence(problem), (x[:4], THREE[:4])
    rows = torch.tensor([1, 2, 3])
    truth = problem.without(rows).minimised().evaluate(test) - problem.evaluate(test)
    found = influence.of_removal(rows, test).newton
    assert found is not None
    assert torch.allclose(found[:, 0], truth, rtol=0.05, atol=1e-5)
    assert len(mismatch(influence, test, by=THREE).groups) == 3


def test_two_targets_are_explained():
    Y = np.stack([VALUE, -VALUE], 1)
    influence = Influence(from_estimator(Ridge().fit(X, Y), X, Y))
    found = explain(influence, (X[:1], Y[:1]), k=2).helpful
    row = found.index[0]
    assert found["label"].iloc[0] == tuple(Y[row].tolist())


@pytest.mark.parametrize("step", ["passthrough", None])
def test_steps_that_do_nothing(step: Any):
    frame = pd.DataFrame(X, columns=list("abc"))
    model = Pipeline([("scale", step), ("model", LogisticRegression(**TIGHT))])
    assert torch.equal(scores(model, frame, TWO), scores(LogisticRegression(**TIGHT), frame, TWO))
    problem = from_estimator(model.fit(frame, TWO), frame, TWO)
    assert problem.feature_names == ("a", "b", "c")


@pytest.mark.parametrize("kernel", ["rbf", "linear", "poly"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_rows_of_weight_zero_are_not_there_for_a_support_vector_machine(kernel: str, form: Any):
    w = np.ones(N)
    w[[3, 8, 20]] = 0
    kept = w > 0
    model = SVC(kernel=kernel, tol=1e-8, gamma=0.3, coef0=1.0).fit(form(X), TWO, sample_weight=w)
    problem = from_estimator(model, form(X), TWO, sample_weight=w)
    alone = SVC(kernel=kernel, tol=1e-8, gamma=0.3, coef0=1.0).fit(X[kept], TWO[kept])
    wanted = torch.from_numpy(alone.decision_function(X))[:, None]
    assert torch.allclose(problem.outputs(), wanted, atol=1e-5)


@pytest.mark.parametrize("kernel", ["precomputed", lambda A, B: A @ B.T])
def test_rows_of_weight_zero_with_a_kernel_of_ones_own_are_refused(kernel: Any):
    """scikit-learn 1.9 itself predicts wrongly there, by other rows than its support vectors."""
    w = np.ones(N)
    w[[3, 8]] = 0
    points = X @ X.T if kernel == "precomputed" else X
    model = SVC(kernel=kernel).fit(points, TWO, sample_weight=w)
    with pytest.raises(ValueError, match="rows of sample weight zero with a kernel of your own"):
        from_estimator(model, points, TWO, sample_weight=w)


@pytest.mark.parametrize("lengths", [(2, 6), (3, 4)], ids=["ragged", "equal"])
def test_lists_of_tokens_are_the_texts_that_they_make(lengths: tuple[int, int]):
    tokens = [list(rng.choice(list("abcdef"), k)) for k in rng.integers(*lengths, N)]
    texts = [" ".join(row) for row in tokens]
    of_tokens = make_pipeline(CountVectorizer(analyzer=lambda row: row), LogisticRegression(**TIGHT))
    of_texts = make_pipeline(CountVectorizer(token_pattern=r"\w"), LogisticRegression(**TIGHT))
    assert_close_per_row(scores(of_tokens, tokens, TWO), scores(of_texts, texts, TWO), 1e-9)


@pytest.mark.parametrize("weight", [2, 2.0, np.float64(2.0)])
@pytest.mark.parametrize("options", [{}, {"class_weight": {0: 1.0, 1: 3.0}}])
def test_one_weight_for_all(weight: Any, options: dict[str, Any]):
    model = LogisticRegression(**TIGHT, **options)
    wanted = scores(model, X, TWO, sample_weight=np.full(N, 2.0))
    assert_close_per_row(scores(model, X, TWO, sample_weight=weight), wanted, 1e-9)


def test_tables_of_polars():
    polars = pytest.importorskip("polars")
    columns = {"age": X[:, 0], "town": ["n", "s"] * (N // 2)}
    model = make_pipeline(
        make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["town"])),
        LogisticRegression(**TIGHT),
    )
    found = scores(model, polars.DataFrame(columns), TWO)
    assert_close_per_row(found, scores(model, pd.DataFrame(columns), TWO), 1e-9)


def test_a_pipeline_that_resamples_is_refused():
    class Half:
        """A step as imbalanced-learn has them."""

        def fit_resample(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return X[::2], y[::2]

    model = Pipeline([("model", LogisticRegression())]).fit(X, TWO)
    model.steps.insert(0, ("half", Half()))
    with pytest.raises(TypeError, match="the pipeline's Half trains on other rows than X: pass the final"):
        from_estimator(model, X, TWO)


# -- labels, columns and features in words -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["boolean", "Int64", "Float64", bool, object, "bool[pyarrow]"])
@pytest.mark.parametrize("fitted_on", [int, bool, float])
def test_labels_that_mean_the_same_are_the_same(form: Any, fitted_on: type):
    y: Any = TWO.astype(fitted_on)
    influence = Influence(from_estimator(LogisticRegression(**TIGHT).fit(X, y), X, y))
    wanted = influence.on_loss((X[:4], y[:4])).values
    labels = pd.Series(TWO[:4] == 1).astype(form)
    assert torch.equal(influence.on_loss((X[:4], labels)).values, wanted)


def test_other_labels_are_still_refused():
    influence = Influence(from_estimator(LogisticRegression(**TIGHT).fit(X, TWO), X, TWO))
    for labels in ([2, 0], ["1", "0"], pd.Series([True, None], dtype="boolean")):
        with pytest.raises(ValueError, match="y has labels that the estimator was not fitted on"):
            influence.on_loss((X[:2], labels))


def test_columns_that_no_transformer_reads_are_not_asked_for():
    frame = pd.DataFrame(X, columns=["age", "dose", "pulse"]).assign(state=TWO)
    model = make_pipeline(
        make_column_transformer((StandardScaler(), ["age", "dose"])), LogisticRegression(**TIGHT)
    )
    influence = Influence(from_estimator(model.fit(frame, TWO), frame, TWO))
    wanted = influence.on_loss((frame[:3], TWO[:3])).values
    assert torch.equal(influence.on_loss((frame[["dose", "age"]][:3], TWO[:3])).values, wanted)
    with pytest.raises(ValueError, match="columns are missing"):
        influence.on_loss((frame[["dose"]][:3], TWO[:3]))


def test_features_of_a_kernel_are_not_called_columns():
    influence = Influence(from_estimator(SVC().fit(X, TWO), X, TWO))
    words = explain(influence, (X[:1], TWO[:1]), k=2).helpful["because of"]
    assert words.str.contains("of the kernel").all()
    assert not words.str.contains("column").any()
