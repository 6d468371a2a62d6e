"""Problems without an optimum, or not at it: what is said, and that nothing is said of the others."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.svm import SVC, LinearSVC

from tests.support.cases import CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, N, X, fitted
from tests.support.refits import one_contribution
from upweight import (
    LinearProblem,
    Logistic,
    NotStationaryWarning,
    SmoothHinge,
    Softmax,
    Squared,
    from_estimator,
)
from upweight.data.user_terms import Terms
from upweight.linear import diagnostics, existence
from upweight.linear.diagnostics import (
    at_optimum,
    distance,
)
from upweight.linear.existence import check_identified, check_separable


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
        rough.fit(X[:N], TARGETS["two"][:N])
    with pytest.warns(NotStationaryWarning, match=r"times what one example contributes.*pass polish=True"):
        from_estimator(rough, X[:N], TARGETS["two"][:N])
    polished = from_estimator(rough, X[:N], TARGETS["two"][:N], polish=True)
    tight = fitted(LogisticRegression(C=10.0, **TIGHT), "two")
    assert_close_per_row(polished.theta, tight.theta, 1e-6)
    with pytest.warns(NotStationaryWarning):  # other weights than it was fitted with
        from_estimator(
            LogisticRegression(**TIGHT).fit(X[:N], TARGETS["two"][:N]),
            X[:N],
            TARGETS["two"][:N],
            sample_weight=np.where(X[:N, 0] > 0, 9, 1),
        )


def test_an_exact_fit_is_no_cause_for_a_warning():
    y = X[:N] @ np.array([1.0, 2.0, 3.0]) + 4
    assert from_estimator(LinearRegression().fit(X[:N], y), X[:N], y).n == N


# -- without scikit-learn --------------------------------------------------------------------------------------------


def test_a_perfect_fit_is_an_optimum():
    X = draw(9, 2)
    problem = LinearProblem(X, X @ torch.tensor([2.0, 1.0]).double(), [2.0, 1.0], loss=Squared())
    assert at_optimum(problem, polish=False) is problem


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_polishing_ends_at_a_millionth_of_one_contribution(case: Case):
    rough = case.elsewhere
    there = at_optimum(rough, polish=True)
    assert float(there.gradient().norm()) <= 1e-6 * one_contribution(rough)
    words = "falls to" if rough.loss.stands_in else "times what one example contributes"
    with pytest.warns(NotStationaryWarning, match=words):
        assert at_optimum(rough, polish=False) is rough
    assert at_optimum(case.problem, polish=False) is case.problem


def named(X: torch.Tensor, l2: torch.Tensor | float, intercept: bool = False, **options) -> LinearProblem:
    d = X.shape[1]
    terms = Terms(feature_names=tuple(f"x{j}" for j in range(d)))
    bias = [0.0] if intercept else None
    return LinearProblem(X, draw(len(X)), torch.zeros(d), bias, loss=Squared(), l2=l2, terms=terms, **options)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_dependent_columns_are_named_whatever_their_scale(scale: float):
    X = draw(30, 4)
    X = torch.cat([X, scale * (X[:, :1] - 2 * X[:, 2:3])], 1)
    with pytest.raises(
        ValueError, match=r"dependent columns without a penalty: 'x0', 'x2', 'x4'; drop columns"
    ):
        check_identified(named(X, 0.0))
    check_identified(named(X, 0.1))  # a penalty makes the optimum unique
    l2 = torch.zeros(5)
    l2[4] = 0.1
    check_identified(named(X, l2))


def test_examples_of_weight_zero_do_not_count():
    X = draw(12, 3)
    weights = torch.ones(12)
    weights[2:] = 0
    with pytest.raises(
        ValueError, match="3 columns without a penalty and 2 examples: the optimum is not unique"
    ):
        check_identified(named(X, 0.0, weights=weights))
    X[:6, 2] = 0
    weights = torch.ones(12)
    weights[6:] = 0
    with pytest.raises(ValueError, match="all zero and have no penalty: 'x2'"):
        check_identified(named(X, 0.0, weights=weights))
    check_identified(named(X, 0.0))


def test_a_constant_column_is_the_intercept():
    X = torch.cat([draw(20, 2), torch.full((20, 1), 7.0).double()], 1)
    check_identified(named(X, 0.0))
    with pytest.raises(ValueError, match="'x2', the intercept"):
        check_identified(named(X, 0.0, intercept=True))


def test_beyond_so_many_columns_nobody_looks(monkeypatch: pytest.MonkeyPatch):
    X = draw(20, 2)
    problem = named(torch.cat([X, X], 1), 0.0)
    monkeypatch.setattr(existence, "GRAM", 3)
    check_identified(problem)
    monkeypatch.setattr(existence, "GRAM", 4)
    with pytest.raises(ValueError, match="dependent columns"):
        check_identified(problem)


def at(X, y, coef, loss, **options) -> LinearProblem:
    return LinearProblem(torch.as_tensor(X).double(), torch.as_tensor(y), coef, loss=loss, **options)


SEPARATED = [[2.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-2.0, -1.0]]
"""By the first column, for the first two examples against the others."""


@pytest.mark.parametrize("good", [True, False])
def test_separation_is_found_by_the_weights_at_hand_or_by_a_programme(good: bool):
    coef = [1.0, 0.0] if good else [-1.0, 3.0]
    words = "the model separates the training data" if good else "0.* separate a part of the training data"
    for loss in (Logistic(), SmoothHinge(0.1)):
        with pytest.raises(ValueError, match=f"no finite optimum: .*{words}.*fit with a penalty"):
            check_separable(at(SEPARATED, [1, 1, 0, 0], coef, loss))
        check_separable(at(SEPARATED, [1, 1, 0, 0], coef, loss, l2=1e-9))
        check_separable(at(SEPARATED, [1, 0, 0, 1], coef, loss))
    check_separable(at(SEPARATED, [1, 1, 0, 0], coef, Squared()))


def test_one_separated_class_of_several_is_enough():
    """One against the rest: each output is a model of its own. Softmax: a class apart from the two others."""
    X = [[1.0, 0.3], [1.0, -0.2], [-1.0, 1.0], [-1.0, -1.0], [-1.0, 0.5], [-1.0, 0.9]]
    y = [0, 0, 1, 2, 2, 1]
    for loss in (Logistic(), Softmax()):
        with pytest.raises(ValueError, match=r"no finite optimum"):
            check_separable(at(X, y, torch.zeros(3, 2), loss))
    mixed = [[1.0, 0.3], [-1.0, 1.0], [1.0, 1.0], [-1.0, -1.0], [1.0, -1.0], [-1.0, 0.5], [0.5, 1], [0.5, -1]]
    check_separable(at(mixed, [0, 0, 1, 1, 2, 2, 0, 0], torch.zeros(3, 2), Softmax()))


def test_only_examples_with_a_weight_need_to_be_separated():
    X, y = [*SEPARATED, [3.0, 0.0]], [1, 1, 0, 0, 0]
    weights = [1.0, 1.0, 1.0, 1.0, 0.0]
    check_separable(at(X, y, [1.0, 0.0], Logistic()))
    with pytest.raises(ValueError, match="no finite optimum"):
        check_separable(at(X, y, [1.0, 0.0], Logistic(), weights=weights))


def test_beyond_some_size_no_programme_is_solved(monkeypatch: pytest.MonkeyPatch):
    hidden = at(SEPARATED, [1, 1, 0, 0], [-1.0, 3.0], Logistic())
    monkeypatch.setattr(existence, "PROGRAMME", 7)  # four margins times two parameters are more
    monkeypatch.setattr(existence, "linprog", None)
    check_separable(hidden)


HINGES = [
    SVC(kernel="linear"),
    SVC(C=30.0),
    LinearSVC(loss="hinge", max_iter=10**6),
    SGDClassifier(alpha=0.01, average=True, max_iter=3000, tol=None, random_state=0),
]


def hinge_data() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(2)
    X = generator.normal(size=(150, 4))
    return X, (X[:, 0] + generator.normal(size=150) > 0).astype(int)


@pytest.mark.parametrize("small", [True, False])
@pytest.mark.parametrize("estimator", HINGES, ids=lambda e: type(e).__name__ + str(getattr(e, "C", "")))
def test_hinges_are_at_their_optimum_with_the_labels_they_were_fitted_on(estimator, small, monkeypatch):
    """Warnings are errors here: none is given for what was fitted, and one for a tenth of the labels turned round."""
    if not small:
        monkeypatch.setattr(diagnostics, "TRAINED", 0)
    X, y = hinge_data()
    model = estimator.fit(X, y)
    from_estimator(model, X, y)
    for wrong in (np.where(np.arange(150) % 10 == 0, 1 - y, y), 1 - y):
        with pytest.warns(
            NotStationaryWarning, match=r"its objective is \S+ and falls to \S+ with further training"
        ):
            from_estimator(model, X, wrong)
    with pytest.warns(NotStationaryWarning, match="one example has in it"):  # weights forgotten
        from_estimator(model, X, y, sample_weight=np.where(y == 1, 3.0, 0.3))


def test_a_hinge_that_stopped_early_is_warned_of_by_its_true_objective():
    X, y = hinge_data()
    model = SGDClassifier(random_state=0).fit(X, y)
    with pytest.warns(NotStationaryWarning, match="falls to 0.46") as said:
        rough = from_estimator(model, X, y)
    value = np.maximum(0, 1 - (2 * y - 1) * model.decision_function(X)).mean() + 5e-5 * (model.coef_**2).sum()
    assert f"its objective is {value:.4g} and" in str(said[0].message)
    polished = from_estimator(model, X, y, polish=True)
    assert float(polished.gradient().norm()) <= 1e-6 * one_contribution(rough)


@pytest.mark.parametrize("solver", ["liblinear", "newton-cholesky"])
def test_a_column_in_dollars_does_not_hide_unfinished_training(solver: str):
    """The income's column fills the gradient's norm; the age's and the intercept's are what is unfinished."""
    rng = np.random.default_rng(0)
    age, income = rng.normal(50, 15, 200), rng.lognormal(11, 0.7, 200)
    y = (age / 15 + income / 1e5 + rng.normal(size=200) > 4.5).astype(int)
    D = pd.DataFrame({"age": age, "income": income})
    tight = {} if solver == "liblinear" else {"tol": 1e-12}
    model = LogisticRegression(solver=solver, **tight).fit(D, y)
    if solver == "liblinear":
        with pytest.warns(NotStationaryWarning, match="times what one example contributes"):
            from_estimator(model, D, y)
        assert distance(from_estimator(model, D, y, polish=True)) < 1e-6
    else:
        assert distance(from_estimator(model, D, y)) < 1e-6
