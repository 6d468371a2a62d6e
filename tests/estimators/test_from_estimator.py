"""`from_estimator` against scikit-learn itself: the same objective and refits without a row, in the user's terms."""

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from tests.support.compare import assert_close_per_row
from tests.support.estimators import ETA, ON_THE_MEAN, SMOOTH, TARGETS, TIGHT, N, X, fitted, name
from tests.support.refits import one_contribution
from upweight import Hessian, Influence, Scores, SquaredHinge, from_estimator, verify
from upweight.measures import margin
from upweight.validation.refits import refit_without

ROWS = torch.tensor([3, 17, 40])


every_smooth = pytest.mark.parametrize(("estimator", "task", "weighted", "accuracy"), SMOOTH, ids=name)


@every_smooth
def test_the_estimator_is_at_the_optimum_of_the_problem(estimator, task, weighted, accuracy):
    problem = fitted(estimator, task, weighted=weighted)
    assert float(problem.gradient().norm()) < accuracy * one_contribution(problem)
    if isinstance(estimator, ON_THE_MEAN):
        assert problem.keep == "mean"
    else:
        assert problem.keep == "total"


@every_smooth
def test_refits_are_the_estimators_own_and_are_predicted(estimator, task, weighted, accuracy):
    problem = fitted(estimator, task, weighted=weighted)
    test = (X[N:], TARGETS[task][N:])
    base = problem.evaluate(test)
    own = [np.delete(np.arange(N), i) for i in ROWS.tolist()]
    actual = torch.stack([fitted(estimator, task, kept, weighted).evaluate(test) - base for kept in own])
    thetas, _ = refit_without(problem, ROWS.split(1), Hessian(problem).factor())
    ours = torch.stack([problem.evaluate(test, theta=theta) for theta in thetas]) - base
    assert_close_per_row(ours, actual, accuracy)
    predicted = Influence(problem).on_loss(test).removal_effect()[:, ROWS].T
    assert_close_per_row(predicted, actual, 0.35)
    newton = Influence(problem).of_removal([[i] for i in ROWS.tolist()], test).newton
    assert newton is not None
    # The squared hinge bends at once where an example crosses its margin, which no single Newton step sees.
    assert_close_per_row(newton.T, actual, max(0.15 if problem.loss == SquaredHinge() else 0.05, accuracy))
    if bool((problem.l2 > 0).any()):
        other = fitted(
            estimator, task, weighted=weighted, keep="mean" if problem.keep == "total" else "total"
        )
        thetas, _ = refit_without(other, ROWS.split(1), Hessian(other).factor())
        wrong = torch.stack([other.evaluate(test, theta=theta) for theta in thetas]) - base
        assert float((wrong - actual).norm()) > 3 * float((ours - actual).norm()), "not told apart"


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(**TIGHT, class_weight="balanced"),
        LogisticRegression(**TIGHT, class_weight="balanced", solver="liblinear"),
        LinearSVC(**TIGHT, class_weight="balanced", dual=False),
    ],
    ids=name,
)
def test_balanced_weights_follow_the_counts_of_the_classes(estimator):
    for weighted in (False, True):
        problem = fitted(estimator, "two", weighted=weighted)
        assert float(problem.gradient().norm()) < 1e-4 * one_contribution(problem)
        assert 'the class weights of "balanced" follow the counts' in problem.terms.notes[-1]
        assert problem.terms.notes[-1] in Influence(problem).on_self().provenance["notes"]
        refit, influence, test = problem.cache["own estimator"], Influence(problem), problem.train_batch(ROWS)
        base = problem.evaluate(test)
        sets = [*ROWS.split(1), torch.arange(0, 12)]
        everything = torch.arange(problem.n)
        kept = [everything[~torch.isin(everything, rows)] for rows in sets]
        actual = torch.stack([refit(left).evaluate(test) - base for left in kept], 1)
        again = torch.stack([problem.without(rows).minimised().evaluate(test) - base for rows in sets], 1)
        assert_close_per_row(again.T, actual.T, 1e-3)
        newton = influence.of_removal(sets, test).newton
        assert newton is not None
        assert_close_per_row(newton.T[:-1], actual.T[:-1], 0.1)
        each = influence.of_each_removal(test).effect()[:, ROWS]
        assert_close_per_row(each.T, newton.T[:-1], 0.1)
        blocks = problem.gradients_without(sets, torch.stack([refit(left).theta for left in kept]))
        assert float(blocks.norm(dim=1).max()) < 1e-3 * one_contribution(problem)


# -- in the user's own terms -----------------------------------------------------------------------------------------


def table(n: int = 80) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(1)
    words = ["good", "bad", "fine", "poor", "film", "plot"]
    text = [" ".join(rng.choice(words, 6)) for _ in range(n)]
    frame = pd.DataFrame(
        {"review": text, "age": rng.normal(40, 10, n), "town": rng.choice(["north", "south", "west"], n)},
        index=[f"customer {i}" for i in range(100, 100 + n)],
    )
    liked = frame.review.str.count("good|fine") - frame.review.str.count("bad|poor") + rng.normal(size=n)
    return frame, pd.Series(np.where(liked > 0, "likes", "dislikes"), index=frame.index, name="opinion")


FRAME, OPINION = table()
COLUMNS = ColumnTransformer([
    ("text", TfidfVectorizer(), "review"),
    ("number", StandardScaler(), ["age"]),
    ("town", OneHotEncoder(handle_unknown="ignore"), ["town"]),
], sparse_threshold=1.0)  # fmt: skip
PIPELINE = make_pipeline(COLUMNS, LogisticRegression(**TIGHT)).fit(FRAME[:70], OPINION[:70])


def test_a_pipeline_of_text_numbers_and_categories(tmp_path):
    problem = from_estimator(PIPELINE, FRAME[:70], OPINION[:70])
    assert float(problem.gradient().norm()) < 1e-6
    assert problem.feature_names is not None
    assert problem.feature_names[0] == "text__bad"
    assert {"number__age", "town__town_west"} <= set(problem.feature_names)
    assert problem.classes == ("dislikes", "likes")
    assert "the pipeline's transformers are applied as fitted and held fixed" in problem.terms.notes
    influence, test = Influence(problem), (FRAME[70:], OPINION[70:])
    loss = -np.log(PIPELINE.predict_proba(FRAME[70:]))[
        np.arange(10), OPINION[70:].map({"dislikes": 0, "likes": 1})
    ]
    assert_close_per_row(problem.evaluate(test), loss, 1e-9)

    scores = influence.on_loss(test)
    assert scores[0].helpful(3).index.isin(FRAME.index[:70]).all()
    row = scores[0].helpful(1).index[0]
    assert row in repr(scores[0])
    assert float(scores[0].helpful(1)["influence"].iloc[0]) == float(scores.values[0].min())
    assert FRAME.index.get_loc(row) == int(scores.values[0].argmin())
    kept = influence.on_loss(test, top=2)
    assert kept[0].helpful(1).index[0] == row
    frame = scores.to_frame()
    assert frame["test row"].iloc[-1] == "customer 179"
    assert frame["train row"].iloc[-1] == "customer 169"
    for written in (scores, kept):
        written.save(tmp_path / "scores")
        read = Scores.load(tmp_path / "scores")
        pd.testing.assert_frame_equal(read.to_frame(), written.to_frame(), check_dtype=False)
        assert read[3].test_ids is not None
        assert read[3].test_ids.tolist() == ["customer 173"]
    assert influence.on_self().top(1).index[0] in FRAME.index

    z = (FRAME[5:6], OPINION[5:6])
    direct = problem.train_batch(torch.tensor([5]))
    assert_close_per_row(influence.on_params(z), influence.on_params(direct), 1e-9)
    assert influence.on_inputs(z, test).shape == (10, 1, problem.d)
    other = (FRAME[5:6], np.where(OPINION[5:6] == "likes", "dislikes", "likes"))
    change = influence.of_change(z, other, test)
    assert change[0].top(1).index[0] == "customer 105"
    verified = verify(influence, test, k=3, random=3)
    assert verified.top.pearson > 0.99
    assert verified.table["train row"].isin(FRAME.index[:70]).all()
    assert verified.table["test row"].iloc[-1] == "customer 179"


def test_rows_follow_a_subset():
    problem = from_estimator(PIPELINE, FRAME[:70], OPINION[:70]).subset(torch.tensor([4, 2]))
    assert problem.train_index is not None
    assert problem.train_index.tolist() == ["customer 104", "customer 102"]
    assert problem.at(problem.theta).train_index is problem.train_index


def test_measures_see_class_numbers():
    problem = fitted(LogisticRegression(**TIGHT), "three")
    test = (X[N:], TARGETS["three"][N:])
    codes = torch.tensor([["low", "mid", "top"].index(label) for label in test[1]])
    eta = torch.tensor(X[N:] @ problem.theta[:9].view(3, 3).numpy().T + problem.theta[9:].numpy())
    assert_close_per_row(problem.evaluate(test, margin), margin(eta, codes), 1e-12)


def test_sparse_arrays_lists_and_index_kinds():
    y = TARGETS["two"][:N]
    dense = from_estimator(LogisticRegression(**TIGHT).fit(X[:N], y), X[:N], y)
    for form in (sparse.csr_array(X[:N]), X[:N].tolist(), pd.DataFrame(X[:N], columns=list("abc"))):
        problem = from_estimator(LogisticRegression(**TIGHT).fit(form, y), form, y)
        assert_close_per_row(problem.theta, dense.theta, 1e-6)
        assert_close_per_row(problem.evaluate((form, y)), dense.evaluate((X[:N], y)), 1e-6)
        assert (problem.feature_names == ("a", "b", "c")) == isinstance(form, pd.DataFrame)
    dates = pd.Series(y, index=pd.date_range("2020-01-01", periods=N))
    scores = Influence(from_estimator(LogisticRegression(**TIGHT).fit(X[:N], y), X[:N], dates)).on_self()
    assert scores.top(1).index[0] in dates.index


def test_ids_that_are_no_plain_values_are_saved_as_text(tmp_path):
    ids = pd.MultiIndex.from_product([["a", "b"], [1, 2]]).to_flat_index()
    scores = Scores(torch.ones(1, 4, dtype=torch.float64), 4, ids=ids)
    assert scores.top(1).index[0] in list(ids)
    scores.save(tmp_path / "scores")
    assert Scores.load(tmp_path / "scores").top(4).index.tolist() == [str(i) for i in scores.top(4).index]


def test_transformers_without_names():
    pipeline = make_pipeline(FunctionTransformer(np.abs), Ridge()).fit(X[:N], ETA[:N])
    problem = from_estimator(pipeline, X[:N], ETA[:N])
    assert problem.feature_names is None
    assert from_estimator(Pipeline([("only", Ridge().fit(X, ETA))]), X, ETA).n == N + 8


# -- what is refused, and in which words -----------------------------------------------------------------------------


def test_unfitted_rank_and_missing_sklearn(monkeypatch):
    with pytest.raises(NotFittedError, match="Ridge instance is not fitted yet"):
        from_estimator(Ridge(), X, ETA)
    with pytest.raises(ValueError, match="rank is for an SVC"):
        fitted(Ridge(), "number", rank=2)
    with pytest.raises((ValueError, Exception), match="keep"):
        fitted(Ridge(), "number", keep="median")
    monkeypatch.setitem(sys.modules, "sklearn.pipeline", None)
    with pytest.raises(ImportError, match=r'pip install "upweight\[sklearn\]"'):
        from_estimator(Ridge(), X, ETA)


def test_labels_never_seen_and_lengths():
    model = LogisticRegression(**TIGHT).fit(X[:N], TARGETS["two"][:N])
    influence = Influence(from_estimator(model, X[:N], TARGETS["two"][:N]))
    odd = np.array(["yes", "maybe", "no", "never"])
    with pytest.raises(
        ValueError, match=r"not fitted on: \['maybe', 'never'\], first in example 1; it knows"
    ):
        influence.on_loss((X[:4], odd))
    with pytest.raises(ValueError, match=r"y must have shape \(n,\), got \(4, 2\)"):
        influence.on_loss((X[:4], np.ones((4, 2))))
    with pytest.raises(ValueError, match="X has 4 examples, y has 3"):
        influence.on_loss((X[:4], TARGETS["two"][:N][:3]))
    with pytest.raises(TypeError, match=r"a batch is \(inputs, targets\)"):
        influence.on_loss(X[:4])
    with pytest.raises(ValueError, match="weights must have shape"):
        from_estimator(model, X[:N], TARGETS["two"][:N], sample_weight=np.ones(3))


def test_class_weights_of_several_models_are_refused():
    with pytest.raises(ValueError, match="class_weight with more than two classes"):
        fitted(LinearSVC(class_weight={"low": 2.0}), "three")
