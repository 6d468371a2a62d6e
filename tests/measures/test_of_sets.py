"""Measures of a whole reference set by their definitions, and as rows are removed against the estimator's refits."""

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import upweight as uw
from tests.support.cases import draw
from upweight import measures as ms

TWO_CLASSES = [
    ms.auroc,
    ms.average_precision,
    ms.accuracy,
    ms.selection_rate,
    ms.true_positive_rate,
    ms.false_positive_rate,
    ms.brier,
    ms.calibration_error,
]


def by_bins(y: np.ndarray, p: np.ndarray) -> float:
    bins = np.minimum((10 * p).astype(int), 9)
    kinds = [(bins == b) for b in range(10) if (bins == b).any()]
    return float(sum(abs(p[b].mean() - y[b].mean()) * b.mean() for b in kinds))


PLAIN: dict[str, Any] = {
    "auroc": lambda y, eta: metrics.roc_auc_score(y, eta),
    "average_precision": lambda y, eta: metrics.average_precision_score(y, eta),
    "accuracy": lambda y, eta: metrics.accuracy_score(y, eta > 0),
    "selection_rate": lambda y, eta: (eta > 0).mean(),
    "true_positive_rate": lambda y, eta: metrics.recall_score(y, eta > 0),
    "false_positive_rate": lambda y, eta: 1 - metrics.recall_score(y, eta > 0, pos_label=0),
    "brier": lambda y, eta: metrics.brier_score_loss(y, 1 / (1 + np.exp(-eta))),
    "calibration_error": lambda y, eta: by_bins(y, 1 / (1 + np.exp(-eta))),
}


def value(measure: uw.Overall, eta: np.ndarray, y: Any) -> float:
    return float(measure.function(torch.as_tensor(eta).view(-1, 1), torch.as_tensor(y)))


@pytest.mark.parametrize("measure", TWO_CLASSES, ids=lambda measure: measure.name)
@given(seed=st.integers(0, 50), m=st.integers(2, 300), distinct=st.integers(2, 400))
def test_values_are_those_of_the_definition(measure: uw.Overall, seed: int, m: int, distinct: int):
    rng = np.random.default_rng(seed)
    y = (rng.random(m) < 0.3).astype(int)
    y[:2] = 0, 1
    eta = rng.integers(-distinct, distinct, (3, m)) / 50 + 0.005
    each = [PLAIN[measure.name](y, row) for row in eta]
    outputs = torch.from_numpy(eta)[..., None]
    for targets in (torch.from_numpy(y), torch.from_numpy(2 * y - 1), torch.from_numpy(y)[:, None].double()):
        assert np.allclose(measure.numbers(outputs, targets), each, rtol=1e-12, atol=1e-12)
    softmax = torch.cat([outputs, 2 * outputs], dim=2)
    assert np.allclose(measure.numbers(softmax, torch.from_numpy(y)), each, rtol=1e-9, atol=1e-12)
    assert math.isclose(value(measure, eta[0], y), each[0], rel_tol=1e-12, abs_tol=1e-12)


def test_accuracy_of_many_classes():
    outputs, y = draw(50, 4), torch.arange(50) % 4
    assert float(ms.accuracy.function(outputs, y)) == float((outputs.argmax(1) == y).double().mean())


def test_a_threshold_is_one_of_the_probability():
    eta, y = draw(200)[:, None], torch.arange(200) % 2
    for measure in (ms.accuracy, ms.selection_rate, ms.gap(ms.true_positive_rate, np.arange(200) % 3)):
        moved = eta - math.log(0.2 / 0.8)
        assert ms.at_threshold(0.2, measure).function(eta, y) == measure.function(moved, y)
    called = (eta[:, 0].sigmoid() > 0.2).double().mean()
    assert ms.at_threshold(0.2, ms.selection_rate).function(eta, None) == called


def test_groups_are_taken_one_by_one():
    eta, y, by = draw(90)[:, None], torch.arange(90) % 2, np.array(["a", "b", None] * 30)
    one = [float(ms.brier.function(eta[rows], y[rows])) for rows in (by == "a", by == "b", by == None)]  # noqa: E711
    assert float(ms.highest(ms.brier, by).function(eta, y)) == max(one)
    assert float(ms.lowest(ms.brier, by).function(eta, y)) == min(one)
    assert float(ms.gap(ms.brier, by).function(eta, y)) == max(one) - min(one)
    several = torch.stack([eta, 2 * eta])
    assert ms.gap(ms.auroc, by).numbers(several, y).tolist() == [
        float(ms.gap(ms.auroc, by).function(part, y)) for part in several
    ]


def test_cohens_d_by_its_definition():
    eta, by = draw(40), np.array(["x", "y"] * 20)
    first, second = eta[0::2].numpy(), eta[1::2].numpy()
    pooled = math.sqrt((first.var(ddof=1) + second.var(ddof=1)) / 2)
    found = float(ms.cohens_d(by).function(eta[:, None], None))
    assert math.isclose(found, (second.mean() - first.mean()) / pooled, rel_tol=1e-12)


# -- as rows are removed -----------------------------------------------------------------------------------------------


def invented(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Many reference rows for few training rows, so that counts change often."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2200, 5))
    return X, (rng.random(2200) < 1 / (1 + np.exp(-X @ np.array([1.0, -1.0, 0.5, 0, 0]) + 1))).astype(int)


def cancer() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    X = StandardScaler().fit_transform(X[:, :6])
    return X, y


DATA = {"invented": lambda: invented(0), "more": lambda: invented(1), "cancer": cancer}


def fitted(X: np.ndarray, y: np.ndarray) -> LogisticRegression:
    return LogisticRegression(C=1.0, tol=1e-10, solver="newton-cholesky").fit(X, y)


@cache
def refitted(name: str) -> tuple[Any, ...]:
    """Leave-one-out, the reference set, groups of it, and its outputs with all rows and without each."""
    X, y = DATA[name]()
    train, rest = (X[:200], y[:200]), (X[200:], y[200:])
    alone = uw.Influence(uw.from_estimator(fitted(*train), *train)).leave_one_out()
    without = [fitted(np.delete(train[0], i, 0), np.delete(train[1], i)) for i in range(200)]
    outputs = np.stack([m.decision_function(rest[0]) for m in [fitted(*train), *without]])
    return alone, rest, np.where(rest[0][:, 1] > 0, "old", "young"), outputs


MEASURES: dict[str, Any] = {
    "auroc": lambda by: ms.auroc,
    "average precision": lambda by: ms.average_precision,
    "accuracy": lambda by: ms.at_threshold(0.4, ms.accuracy),
    "brier": lambda by: ms.brier,
    "worst group": lambda by: ms.lowest(ms.auroc, by),
    "demographic parity": lambda by: ms.gap(ms.selection_rate, by),
    "equal opportunity": lambda by: ms.gap(ms.true_positive_rate, by),
    "false positive rate": lambda by: ms.gap(ms.false_positive_rate, by),
    "gap of auroc": lambda by: ms.gap(ms.auroc, by),
    "cohen's d": lambda by: ms.cohens_d(by),
    "any function": lambda by: uw.Overall(lambda outputs, y: np.median(outputs.numpy()), smooth=False),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("which", MEASURES)
def test_changes_are_those_of_refits(name: str, which: str):
    alone, (X, y), by, outputs = refitted(name)
    measure = MEASURES[which](by)
    every = torch.stack([torch.as_tensor(value(measure, row, y)) for row in outputs])
    actual, predicted = every[1:] - every[0], alone.change((X, y), measure=measure)[0]
    assert predicted.shape == (200,)
    # A count of few rows moves by one or not at all, so that a single row is a share of the whole.
    assert float((predicted - actual).norm()) <= 0.1 * float(actual.norm())
    assert not actual.any() or np.corrcoef(predicted, actual)[0, 1] >= 0.99
    assert float(((predicted == 0) == (actual == 0)).double().mean()) >= 0.96


def problem_of(X: torch.Tensor, y: torch.Tensor, **options: Any) -> uw.LinearProblem:
    return uw.LinearProblem.fit(X, y, loss=options.pop("loss", uw.Logistic()), l2=0.1, **options)


def test_a_count_changes_by_nothing_where_nothing_swaps():
    X, y = draw(30, 2), (draw(30, seed=1) > 0).long()
    weights = torch.ones(30)
    weights[4] = 0
    alone = uw.Influence(problem_of(X, y, weights=weights, keep="total")).leave_one_out()
    for measure in (ms.auroc, ms.average_precision, ms.accuracy, ms.gap(ms.accuracy, y)):
        assert float(alone.change((X, y), measure=measure)[0, 4]) == 0


def test_equal_rows_stay_equal_to_the_last_digit():
    X, y = draw(30, 7), (draw(30, seed=1) > 0).long()
    alone = uw.Influence(problem_of(X, y)).leave_one_out()
    reference = X[:1].expand(64, -1).clone()
    targets = torch.arange(64) % 2
    assert not alone.change((reference, targets), measure=ms.auroc).any()
    assert not alone.change(
        (reference * torch.tensor([1.0, -0.0] * 3 + [1.0]), targets), measure=ms.auroc
    ).any()


def test_one_by_one_is_what_a_set_of_one_gives():
    X, y = draw(40, 3), (draw(40, seed=1) > 0).long()
    influence = uw.Influence(problem_of(X, y, intercept=True))
    singles = {i: [i] for i in range(40)}
    for measure in (
        ms.auroc,
        ms.brier,
        None,
        ms.margin,
        uw.OfParameters(lambda params: params["weight"][0, 0]),
    ):
        found = influence.of_removal(singles, (X[:9], y[:9]), measure=measure, steps=1)
        expected = influence.leave_one_out().change((X[:9], y[:9]), measure=measure)
        assert found.newton is not None
        assert torch.allclose(found.newton, expected, rtol=1e-9, atol=1e-14)
    assert found.first_order.isfinite().all()


def test_of_many_classes():
    X, y = draw(60, 3), torch.arange(60) % 3
    influence = uw.Influence(problem_of(X, y, loss=uw.Softmax(), outputs=3, intercept=True))
    found = influence.of_removal({i: [i] for i in range(60)}, (X, y), measure=ms.accuracy, steps=1)
    assert found.newton is not None
    assert found.newton.any()
    assert found.first_order.isnan().all()
    assert found.measure == "accuracy"
    assert torch.equal(influence.leave_one_out().change((X, y), measure=ms.accuracy), found.newton)


def test_rows_that_alone_determine_something_have_no_number():
    X = torch.cat([draw(20, 2), torch.zeros(20, 1)], dim=1)
    X[3, 2] = 1
    influence = uw.Influence(uw.LinearProblem.fit(X, draw(20, seed=1), loss=uw.Squared()))
    half = uw.Overall(lambda outputs, y: metrics.r2_score(y, outputs[:, 0]), smooth=False)
    found = influence.leave_one_out().change((X, draw(20)), measure=half)[0]
    assert found.isnan().nonzero().tolist() == [[3]]
    assert influence.of_removal([[3]], (X, draw(20)), measure=half).undetermined.tolist() == [0]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_counts_have_no_first_order():
    X, y = draw(30, 2), (draw(30, seed=1) > 0).long()
    influence = uw.Influence(problem_of(X, y))
    with pytest.raises(uw.DerivativeError, match=r"auroc has no derivative.*leave_one_out"):
        influence.on_loss((X, y), measure=ms.auroc)
    network = torch.nn.Linear(2, 1).double()
    problem = uw.Problem(network, lambda out, y: (out[:, 0] - y).square().mean(), (X, y.double()), l2=0.1)
    with pytest.raises(uw.DerivativeError, match="accuracy has no derivative"):
        uw.Influence(problem).of_removal([[1]], (X, y), measure=ms.accuracy)


@pytest.mark.parametrize(
    ("measure", "targets", "words"),
    [
        (ms.auroc, torch.zeros(6), "none is of the second class"),
        (ms.false_positive_rate, torch.ones(6), "none is of the first class"),
        (ms.auroc, torch.arange(6), "targets must be 0 and 1, or -1 and 1"),
        (ms.brier, torch.ones(5), "6 rows, targets of shape"),
        (ms.gap(ms.auroc, list("ababa")), torch.arange(6) % 2, "the groups of 5 rows, and 6 rows"),
        (ms.gap(ms.auroc, list("aabbbb")), torch.tensor([1, 1, 0, 1, 0, 1]), "or join groups"),
        (ms.cohens_d(list("ababa")), None, "the groups of 5 rows, and 6 rows"),
    ],
)
def test_what_has_no_value_is_said(measure, targets, words):
    with pytest.raises(ValueError, match=words):
        measure.function(draw(6, 1), targets)


def test_other_bad_input():
    with pytest.raises(ValueError, match="the model has 3 outputs"):
        ms.auroc.function(draw(6, 3), torch.arange(6) % 2)
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        ms.at_threshold(1.0, ms.accuracy)
    with pytest.raises(ValueError, match="two groups of at least two rows, got 3"):
        ms.cohens_d(list("abc"))
    X, y = draw(30, 2), (draw(30, seed=1) > 0).long()
    hinge = problem_of(X, y, loss=uw.SquaredHinge())
    alone = uw.Influence(hinge).leave_one_out()
    for ask in (alone.change, hinge.evaluate, hinge.test_gradients):
        options: dict[str, Any] = {"measure": ms.brier}
        with pytest.raises(
            ValueError, match="brier is about probabilities, and a model trained with SquaredHinge"
        ):
            ask((X, y), **options)
    assert alone.change((X, y), measure=ms.auroc).any()
