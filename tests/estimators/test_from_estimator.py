"""`from_estimator` against scikit-learn itself: the same objective, and the same refits without a row."""

import sys
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import (
    ElasticNet,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    SGDClassifier,
)
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, SVR, LinearSVC

from tests.support.compare import assert_close_per_row
from upweight import (
    Hessian,
    Influence,
    LinearProblem,
    NotStationaryWarning,
    Scores,
    SmoothHinge,
    SquaredHinge,
    from_estimator,
    verify,
)
from upweight.linear.diagnostics import one_example_contribution
from upweight.measures import margin
from upweight.validation.refits import refit_without

RNG = np.random.default_rng(0)
N = 60
X = RNG.normal(size=(N + 8, 3)) + np.array([0.5, -0.2, 0.0])
ETA = X @ np.array([1.0, -1.0, 0.5]) + RNG.normal(size=N + 8)
TARGETS = {
    "two": np.where(ETA > 0, "yes", "no"),
    "three": np.array(["low", "mid", "top"])[np.digitize(ETA, [-0.7, 0.7])],
    "number": 3 * ETA,
    "numbers": np.stack([3 * ETA, ETA**2], axis=1),
}
WEIGHTS = RNG.uniform(0.2, 2.0, N)
ROWS = torch.tensor([3, 17, 40])
SGD = {"alpha": 0.3, "max_iter": 4000, "tol": None, "random_state": 0, "average": 10_000}
TIGHT = {"tol": 1e-12, "max_iter": 100_000}

# (estimator, task, whether weighted, relative accuracy of the estimator's own refits)
SMOOTH = [
    (LogisticRegression(C=0.3, **TIGHT), "two", False, 1e-3),
    (LogisticRegression(C=0.3, **TIGHT, class_weight={"no": 3.0, "yes": 0.7}), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="newton-cholesky", **TIGHT, fit_intercept=False), "three", False, 1e-3),
    (LogisticRegression(C=0.3, solver="newton-cg", **TIGHT, class_weight={"mid": 2.0}), "three", True, 1e-3),
    (LogisticRegression(C=np.inf, **TIGHT), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="liblinear", **TIGHT), "two", True, 1e-3),
    (LogisticRegression(C=0.3, solver="liblinear", intercept_scaling=3.0, **TIGHT), "two", False, 1e-3),
    (LinearSVC(C=0.1, **TIGHT), "two", True, 1e-3),
    (LinearSVC(C=0.1, **TIGHT, intercept_scaling=2.0), "three", True, 1e-3),
    (LinearSVC(C=0.1, dual=False, **TIGHT, class_weight={"no": 2.0}), "two", False, 1e-3),
    (SGDClassifier("log_loss", **SGD), "two", False, 0.1),
    (SGDClassifier("log_loss", **SGD), "three", True, 0.1),
    (SGDClassifier("squared_hinge", **SGD, class_weight={"no": 0.5}), "two", False, 0.1),
    (LinearRegression(), "number", True, 1e-6),
    (LinearRegression(fit_intercept=False), "numbers", False, 1e-6),
    (Ridge(alpha=20.0), "number", True, 1e-6),
    (Ridge(alpha=[5.0, 20.0]), "numbers", False, 1e-6),
    (Ridge(alpha=20.0, fit_intercept=False), "numbers", True, 1e-6),
]


def name(value) -> str:
    return "".join(str(value).split()) if not isinstance(value, (bool, float)) else str(value)


every_smooth = pytest.mark.parametrize(("estimator", "task", "weighted", "accuracy"), SMOOTH, ids=name)


def fitted(estimator, task: str, kept=slice(N), weighted: bool = False, **options):
    """The problem of a clone fitted on those rows."""
    X_, y_ = X[:N][kept], TARGETS[task][:N][kept]
    weights = WEIGHTS[kept] if weighted else None
    model = clone(estimator).fit(X_, y_, **({"sample_weight": weights} if weighted else {}))
    return from_estimator(model, X_, y_, sample_weight=weights, **options)


@every_smooth
def test_the_estimator_is_at_the_optimum_of_the_problem(estimator, task, weighted, accuracy):
    problem = fitted(estimator, task, weighted=weighted)
    assert float(problem.gradient().norm()) < accuracy * one_example_contribution(problem)
    if isinstance(estimator, SGDClassifier):
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
        LinearSVC(C=0.3, loss="hinge", tol=1e-9, max_iter=1_000_000),
        LinearSVC(C=0.3, loss="hinge", tol=1e-9, max_iter=1_000_000, class_weight={"no": 2.0}),
        SVC(C=0.3, kernel="linear", tol=1e-9),
    ],
    ids=name,
)
def test_true_hinges_are_refitted_and_predicted_by_smooth_ones(estimator):
    """The weights are the true hinge's, and so are the refits that the smooth one is judged by."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not at the smooth optimum, and that is no cause for a warning
        problem = fitted(estimator, "two", smoothing=0.05)
    test = (X[N:], TARGETS["two"][N:])
    base = problem.evaluate(test)
    refits = [fitted(estimator, "two", np.delete(np.arange(N), i)).theta for i in range(N)]
    actual = torch.stack([problem.evaluate(test, theta=theta) for theta in refits]) - base
    predicted = Influence(problem).on_loss(test).removal_effect().T
    # A removal moves the margin over a few examples out of 60: only the trend is of first order.
    assert np.corrcoef(actual.flatten(), predicted.flatten())[0, 1] > 0.6
    assert 0.5 < float((actual * predicted).sum() / predicted.square().sum()) < 2

    # The penalty convention: refits of the (hardly) smoothed objective are the estimator's own.
    sharp = fitted(estimator, "two", smoothing=1e-3, polish=True)
    rows = actual.norm(dim=1).topk(3).indices
    thetas, _ = refit_without(sharp, rows.split(1), Hessian(sharp).factor(), 1e-7)
    ours = torch.stack([theta - sharp.theta for theta in thetas])
    assert_close_per_row(ours, torch.stack([refits[i] - problem.theta for i in rows.tolist()]), 0.1)


def test_smoothing_polishes_to_the_smoothed_optimum():
    estimator = LinearSVC(loss="hinge", tol=1e-9, max_iter=1_000_000)
    rough, polished = (fitted(estimator, "two", smoothing=0.01, polish=polish) for polish in (False, True))
    assert isinstance(polished.loss, SmoothHinge)
    assert float(polished.gradient().norm()) <= 1e-6 * one_example_contribution(rough)
    assert 0 < float((polished.theta - rough.theta).norm()) < 0.1


@given(
    C=st.floats(0.01, 10),
    scaling=st.floats(0.3, 10),
    task=st.sampled_from(["two", "three"]),
    intercept=st.booleans(),
)
@settings(max_examples=15)
def test_liblinear_at_any_penalty(C: float, scaling: float, task: str, intercept: bool):
    estimator = LinearSVC(
        C=C, intercept_scaling=scaling, fit_intercept=intercept, dual=False, tol=1e-11, max_iter=100_000
    )
    problem = fitted(estimator, task)
    assert float(problem.gradient().norm()) < 1e-4 * one_example_contribution(problem)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(**TIGHT, class_weight="balanced"),
        LogisticRegression(**TIGHT, class_weight="balanced", solver="liblinear"),
        LinearSVC(**TIGHT, class_weight="balanced", dual=False),
    ],
    ids=name,
)
def test_balanced_weights_are_held_fixed(estimator):
    for weighted in (False, True):
        problem = fitted(estimator, "two", weighted=weighted)
        assert float(problem.gradient().norm()) < 1e-4 * one_example_contribution(problem)
        assert 'the class weights of "balanced" are held fixed' in problem.terms.notes
        assert problem.terms.notes[-1] in Influence(problem).on_self().provenance["notes"]


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


# -- what is refused, and in which words -----------------------------------------------------------------------------

Y2, Y3 = TARGETS["two"][:N], TARGETS["three"][:N]


@pytest.mark.parametrize(("estimator", "error", "words"), [
    (LogisticRegression(solver="saga", l1_ratio=1, C=0.1, max_iter=10_000), ValueError, "an l1 penalty.*use the l2"),
    (LogisticRegression(solver="saga", l1_ratio=0.5, C=0.1, max_iter=10_000), ValueError, "an elasticnet penalty"),
    (LinearSVC(penalty="l1", dual=False), ValueError, "an l1 penalty"),
    (LinearSVC(multi_class="crammer_singer"), ValueError, "crammer_singer"),
    (SGDClassifier(penalty="l1"), ValueError, "an l1 penalty"),
    (SGDClassifier("modified_huber"), ValueError, "use one of hinge, squared_hinge, log_loss"),
    (SGDClassifier(early_stopping=True), ValueError, "early_stopping=True trains on a part"),
    (RandomForestClassifier(3), TypeError, "RandomForestClassifier is not supported: influence needs a smooth"),
    (SVC(), ValueError, "3 classes.*one against one.*use LinearSVC"),
    (LinearSVC(class_weight={"low": 2.0}), ValueError, "class_weight with more than two classes"),
])  # fmt: skip
def test_settings_that_are_refused(estimator, error, words: str):
    with pytest.raises(error, match=words):
        from_estimator(estimator.fit(X[:N], Y3), X[:N], Y3)


@pytest.mark.parametrize(("estimator", "words"), [
    (SVR(), "use Ridge"),
    (ElasticNet(), "a kink at zero"),
    (LogisticRegressionCV(), "pass a LogisticRegression fitted"),
    (GridSearchCV(Ridge(), {"alpha": [1.0]}), "best_estimator_"),
    (LinearRegression, "ABCMeta is not supported"),
    (Pipeline([("a", make_pipeline(Ridge()))]), "ends in a Pipeline"),
])  # fmt: skip
def test_estimators_that_are_refused(estimator, words: str):
    with pytest.raises(TypeError, match=words):
        from_estimator(estimator, X[:N], Y2)


def test_positive_unfitted_rank_and_missing_sklearn(monkeypatch):
    with pytest.raises(ValueError, match="positive=True"):
        fitted(LinearRegression(positive=True), "number")
    with pytest.raises(NotFittedError, match="Ridge instance is not fitted yet"):
        from_estimator(Ridge(), X, ETA)
    with pytest.raises(ValueError, match="rank is for an SVC"):
        fitted(Ridge(), "number", rank=2)
    with pytest.raises((ValueError, Exception), match="keep"):
        fitted(Ridge(), "number", keep="median")
    monkeypatch.setitem(sys.modules, "sklearn.pipeline", None)
    with pytest.raises(ImportError, match=r'pip install "upweight\[sklearn\]"'):
        from_estimator(Ridge(), X, ETA)


def test_other_columns_than_at_fit():
    frame = pd.DataFrame(X[:N], columns=["a", "b", "c"])
    model = LogisticRegression(**TIGHT).fit(frame, Y2)
    influence = Influence(from_estimator(model, frame, Y2))
    for other, words in [
        (frame.rename(columns={"b": "d"}), r"missing \['b'\]; unexpected \['d'\]"),
        (frame[["a", "b"]], r"missing \['c'\]"),
        (frame.assign(e=0.0), r"unexpected \['e'\]"),
        (frame[["b", "a", "c"]], r"reordered: \['b', 'a', 'c'\] instead of \['a', 'b', 'c'\]"),
        (X[:N, :2], "X has 2 columns, the estimator was fitted on 3"),
    ]:
        with pytest.raises(ValueError, match=words):
            from_estimator(model, other, Y2)
        with pytest.raises(ValueError, match=words):
            influence.on_loss((other, Y2))


def test_labels_never_seen_and_lengths():
    model = LogisticRegression(**TIGHT).fit(X[:N], Y2)
    influence = Influence(from_estimator(model, X[:N], Y2))
    odd = np.array(["yes", "maybe", "no", "never"])
    with pytest.raises(
        ValueError, match=r"not fitted on: \['maybe', 'never'\], first in example 1; it knows"
    ):
        influence.on_loss((X[:4], odd))
    with pytest.raises(ValueError, match=r"y must have shape \(n,\), got \(4, 2\)"):
        influence.on_loss((X[:4], np.ones((4, 2))))
    with pytest.raises(ValueError, match="X has 4 examples, y has 3"):
        influence.on_loss((X[:4], Y2[:3]))
    with pytest.raises(TypeError, match=r"a batch is \(inputs, targets\)"):
        influence.on_loss(X[:4])
    with pytest.raises(ValueError, match="weights must have shape"):
        from_estimator(model, X[:N], Y2, sample_weight=np.ones(3))


@pytest.mark.parametrize("labels", ["two", "three"])
def test_separated_without_a_penalty(labels: str):
    y = np.array(["low", "mid", "top"])[np.digitize(X[:N, 0], [0.3] if labels == "two" else [0.2, 0.8])]
    X_ = np.stack([X[:N, 0], X[:N, 0] ** 2], axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = LogisticRegression(C=np.inf, max_iter=3000, tol=1e-12).fit(X_, y)
    assert model.score(X_, y) == 1
    with pytest.raises(ValueError, match="no finite optimum"):
        from_estimator(model, X_, y)


@pytest.mark.parametrize("labels", ["two", "three"])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_column_that_separates_a_part_is_named(labels: str, intercept: bool):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 2)), columns=["a", "b"])
    noise = rng.normal(size=300)
    y = np.array(["low", "mid", "top"])[
        np.digitize(frame.a + noise, [0.3] if labels == "two" else [-0.5, 0.5])
    ]
    frame["rare"] = (np.arange(300) < 7).astype(float)

    def explained(y: np.ndarray) -> LinearProblem:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = LogisticRegression(C=np.inf, max_iter=3000, fit_intercept=intercept).fit(frame, y)
            return from_estimator(model, frame, y)

    assert len(set(y[:7])) > 1
    assert explained(y).p > 0  # both classes among the rare ones: an optimum
    y[:7] = "low"
    with pytest.raises(ValueError, match="'rare' separate a part of the training data"):
        explained(y)


@pytest.mark.parametrize("intercept", [True, False])
def test_columns_without_a_unique_optimum_are_named(intercept: bool):
    frame = pd.DataFrame(X[:N], columns=["a", "b", "c"])
    y = TARGETS["number"][:N]

    def explain(other):
        return from_estimator(LinearRegression(fit_intercept=intercept).fit(other, y), other, y)

    with pytest.raises(ValueError, match=r"all zero and have no penalty: 'zero';"):
        explain(frame.assign(zero=0.0))
    with pytest.raises(ValueError, match=r"dependent columns without a penalty: 'b', 'twice';"):
        explain(frame.assign(twice=2 * frame.b))
    with pytest.raises(ValueError, match=r"dependent columns without a penalty: 0, 2, 3;"):
        explain(sparse.csr_array(np.column_stack([X[:N], X[:N, 0] - X[:N, 2]])))
    with pytest.raises(ValueError, match="61 columns without a penalty and 60 examples"):
        explain(np.random.default_rng(0).normal(size=(N, 61)))
    one_hot = frame.assign(**{name: (frame.a > 0) == (name == "p") for name in "pq"})
    if intercept:
        with pytest.raises(ValueError, match=r"dependent .*: 'p', 'q', the intercept;"):
            explain(one_hot)
    else:
        explain(one_hot)
    far = explain(frame.assign(year=2000.0 + np.arange(N)))  # nearly parallel to the intercept, and fine
    assert float(far.gradient().norm()) < 1e-6


def test_not_at_the_optimum_and_polished():
    rough = LogisticRegression(C=10.0, tol=1e-1, max_iter=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rough.fit(X[:N], Y2)
    with pytest.warns(NotStationaryWarning, match=r"times what one example contributes.*pass polish=True"):
        from_estimator(rough, X[:N], Y2)
    polished = from_estimator(rough, X[:N], Y2, polish=True)
    tight = fitted(LogisticRegression(C=10.0, **TIGHT), "two")
    assert_close_per_row(polished.theta, tight.theta, 1e-6)
    with pytest.warns(NotStationaryWarning):  # other weights than it was fitted with
        from_estimator(
            LogisticRegression(**TIGHT).fit(X[:N], Y2), X[:N], Y2, sample_weight=np.where(X[:N, 0] > 0, 9, 1)
        )


def test_an_exact_fit_is_no_cause_for_a_warning():
    y = X[:N] @ np.array([1.0, 2.0, 3.0]) + 4
    assert from_estimator(LinearRegression().fit(X[:N], y), X[:N], y).n == N


def test_transformers_without_names():
    pipeline = make_pipeline(FunctionTransformer(np.abs), Ridge()).fit(X[:N], ETA[:N])
    problem = from_estimator(pipeline, X[:N], ETA[:N])
    assert problem.feature_names is None
    assert from_estimator(Pipeline([("only", Ridge().fit(X, ETA))]), X, ETA).n == N + 8
