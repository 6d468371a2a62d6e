"""Rows that a question gives, by number or as a batch, weigh what they do in training: judged by the user's refits."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

import upweight as uw
from tests.support.compare import assert_close_per_row
from tests.support.estimators import TARGETS, TIGHT, WEIGHTS, N, X
from tests.support.networks import problem_of
from upweight.estimators import from_estimator
from upweight.influence.given_rows import given_rows
from upweight.influence.given_rows import numbered as row_numbers

EPS = 1e-4
CASES = [
    (LogisticRegression(C=0.3, class_weight={"yes": 4.0, "no": 1.0}, **TIGHT), "two", None),
    (LogisticRegression(C=0.3, class_weight={"yes": 4.0, "no": 1.0}, **TIGHT), "two", WEIGHTS),
    (LogisticRegression(C=0.3, **TIGHT), "two", np.full(N, 3.0)),
    (LogisticRegression(C=0.3, class_weight={"mid": 3.0}, **TIGHT), "three", WEIGHTS),
    (LinearSVC(C=0.1, class_weight={"no": 2.0}, **TIGHT), "two", WEIGHTS),
    (Ridge(alpha=20.0), "number", WEIGHTS),
]
each = pytest.mark.parametrize(("estimator", "task", "weights"), CASES, ids=range(len(CASES)))


def outputs(model: Any) -> np.ndarray:
    """The outputs of the test rows, (8, c); softmax does not see a shift of all of a row's."""
    given = model.decision_function if hasattr(model, "decision_function") else model.predict
    found = given(X[N:]).reshape(8, -1)
    return found - found.mean(1, keepdims=True) if found.shape[1] > 1 else found


def rate(estimator: Any, task: str, weights: Any, less: int, instead: tuple[Any, Any] | None) -> np.ndarray:
    """The change of the outputs per share of row `less` that is taken away (and given to another row instead)."""
    own = np.ones(N) if weights is None else weights
    y = TARGETS[task][:N]

    def fit(share: float) -> np.ndarray:
        w = own.copy()
        w[less] *= 1 - share
        if instead is None:
            return outputs(clone(estimator).fit(X[:N], y, sample_weight=w))
        A, b, w = np.r_[X[:N], instead[0]], np.r_[y, instead[1]], np.r_[w, own[less] * share]
        return outputs(clone(estimator).fit(A, b, sample_weight=w))

    return (fit(EPS) - fit(0.0)) / EPS


def asked(estimator: Any, task: str, weights: Any) -> uw.Influence:
    model = clone(estimator).fit(X[:N], TARGETS[task][:N], sample_weight=weights)
    return uw.Influence(uw.from_estimator(model, X[:N], TARGETS[task][:N], sample_weight=weights))


def other_label(task: str, i: int) -> np.ndarray:
    y = TARGETS[task]
    return y[[i]] + 2.0 if task == "number" else np.array([next(v for v in np.unique(y) if v != y[i])])


def effects(influence: uw.Influence, before: Any, after: Any, **options: Any) -> torch.Tensor:
    """The predicted changes of all outputs of the test rows, (8, c)."""
    model = influence.problem.linear
    assert model is not None

    def measure(k: int) -> Any:
        return lambda out, y: out[:, k] - (out.mean(1) if model.c > 1 else 0)

    test = X[N:], np.resize(after[1], 8)
    parts = [
        influence.of_change(before, after, test, measure=measure(k), **options).effect()
        for k in range(model.c)
    ]
    return torch.cat(parts, 1)


@each
def test_of_change_is_the_derivative_of_the_users_refits(estimator: Any, task: str, weights: Any) -> None:
    influence = asked(estimator, task, weights)
    for i in (3, 8):
        for after in ((X[[i]] + 0.5, TARGETS[task][[i]]), (X[[i]], other_label(task, i))):
            naive = rate(estimator, task, weights, i, after)
            found = effects(influence, [i], after)
            assert_close_per_row(found.T, naive.T, 5e-3)
            own = None if weights is None else weights[[i]]
            given = effects(influence, (X[[i]], TARGETS[task][[i]]), after, weights=own)
            assert_close_per_row(given, found, 1e-10)


@each
def test_on_params_and_on_inputs_carry_the_weights(estimator: Any, task: str, weights: Any) -> None:
    influence = asked(estimator, task, weights)
    problem, rows = influence.problem, [2, 7, 11]
    moves = -influence.on_params(rows) / problem.n
    for k, i in enumerate(rows):
        coef, bias = problem.layout.unpack(moves[k]).values()
        found = torch.from_numpy(X[N:]) @ coef.T + bias
        found = found - found.mean(1, keepdim=True) if found.shape[1] > 1 else found
        assert_close_per_row(found.T, rate(estimator, task, weights, i, None).T, 5e-3)
    batch = X[rows], TARGETS[task][rows]
    own = None if weights is None else weights[rows]
    assert_close_per_row(influence.on_params(batch, weights=own), influence.on_params(rows), 1e-12)
    test = X[N:], TARGETS[task][N:]
    by_number, by_batch = influence.on_inputs(rows, test), influence.on_inputs(batch, test, weights=own)
    assert_close_per_row(by_batch.flatten(1), by_number.flatten(1), 1e-12)
    step = 1e-4
    y = TARGETS[task][:N]
    base, moved = X[:N].copy(), X[:N].copy()
    moved[2, 1] += step
    base[2, 1] -= step
    losses = []
    for A in (moved, base):
        there = uw.from_estimator(
            clone(estimator).fit(A, y, sample_weight=weights), A, y, sample_weight=weights
        )
        losses.append(there.evaluate(test))
    naive_loss = (losses[0] - losses[1]) / (2 * step)
    assert_close_per_row((by_number[:, 0, 1] / problem.n)[None], naive_loss[None], 5e-3)


def test_a_weight_of_three_is_a_third_of_the_penalty() -> None:
    """Weight 3 with C/3 is the same model: shares of columns and of groups are the same numbers."""
    y = TARGETS["two"][:N]
    one = uw.from_estimator(LogisticRegression(C=0.3, **TIGHT).fit(X[:N], y), X[:N], y)
    w = np.full(N, 3.0)
    three = uw.from_estimator(
        LogisticRegression(C=0.1, **TIGHT).fit(X[:N], y, sample_weight=w), X[:N], y, sample_weight=w
    )
    test = X[N : N + 1], TARGETS["two"][N : N + 1]
    explained = [uw.explain(uw.Influence(problem), test, k=5).helpful for problem in (one, three)]
    assert explained[0]["because of"].tolist() == explained[1]["because of"].tolist()
    assert explained[0].iloc[:, 1].to_numpy() == pytest.approx(explained[1].iloc[:, 1].to_numpy(), rel=1e-5)
    by = {"a": list(range(20)), "b": list(range(20, 45))}
    shares = [uw.mismatch(uw.Influence(problem), test, by=by).features for problem in (one, three)]
    pd.testing.assert_frame_equal(shares[0], shares[1], rtol=1e-5)


def test_a_batch_does_not_say_which_sample_weights_it_has() -> None:
    influence, test = asked(*CASES[1]), (X[N:], TARGETS["two"][N:])
    row = X[[3]], TARGETS["two"][[3]]
    for question in (
        lambda: influence.on_params(row),
        lambda: influence.on_inputs(row, test),
        lambda: influence.of_change(row, row, test),
    ):
        with pytest.raises(ValueError, match="give rows by number, or weights="):
            question()
    with pytest.raises(ValueError, match="leave weights out"):
        influence.on_params([3], weights=[1.0])
    with pytest.raises(ValueError, match="1 finite numbers >= 0"):
        influence.on_params(row, weights=[1.0, 2.0])
    with pytest.raises(ValueError, match="`before` has 1 examples, `after` has 2"):
        influence.of_change([3], (X[3:5], TARGETS["two"][3:5]), test)


def test_a_network_takes_rows_by_number() -> None:
    problem = problem_of("words")
    influence = uw.Influence(problem, curvature=uw.GaussNewton(problem, 0.1))
    rows = torch.tensor([3, 1])
    by_number = influence.on_params(rows)
    by_batch = influence.on_params(problem.train_batch(rows), weights=problem.weights[rows])
    assert_close_per_row(by_number, by_batch, 1e-6)
    assert_close_per_row(influence.on_params(3), by_number[:1], 1e-6)


def test_row_numbers_are_told_from_batches() -> None:
    for rows in (3, [3], (3,), range(3, 4), np.array([3]), torch.tensor([3]), pd.Index([3])):
        assert torch.as_tensor(row_numbers(rows, 4)).tolist() == [3]
    assert row_numbers((np.eye(2), np.zeros(2)), 4) is None
    assert row_numbers({"input_ids": torch.eye(2)}, 4) is None
    with pytest.raises(ValueError, match="no training row 4: rows are 0 to 3"):
        row_numbers([4], 4)
    with pytest.raises(TypeError, match="whole numbers"):
        row_numbers(np.array([0.5]), 4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_new_label_moves_the_class_weights_that_follow_the_counts(classes: int, weighted: bool):
    generator = np.random.default_rng(classes)
    X, y = generator.normal(size=(30, 3)), np.arange(30) * generator.integers(1, 5, 30) % classes
    weight = generator.uniform(0.5, 2, 30) if weighted else None
    fitted = LogisticRegression(class_weight="balanced", tol=1e-10).fit(X, y, sample_weight=weight)
    problem = from_estimator(fitted, X, y, sample_weight=weight)
    rows, labels = torch.tensor([3, 17]), (y[[3, 17]] + 1) % classes
    given = given_rows(problem, rows)
    found = given.replaced(problem, (X[rows], labels)) - given.gradients(problem)
    for row, label, change in zip(rows, labels, found, strict=True):
        there = problem.relabelled(row[None], problem.encode([label], 1))
        wanted = (there.gradient() - problem.gradient()) * problem.n
        torch.testing.assert_close(change, wanted, rtol=1e-9, atol=1e-12)
