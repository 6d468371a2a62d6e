"""Machines for every pair of classes: objectives pair by pair, votes as scikit-learn counts them, refits of its own."""

import warnings
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tests.support.compare import assert_close_per_row
from upweight import Influence, SmoothHinge, explain, flip_set, from_estimator, measures, mislabeled
from upweight.losses.pairs import by_votes, classes_of_pairs
from upweight.uses.said import said_of

RNG = np.random.default_rng(0)
N, K = 70, 4
X = RNG.normal(size=(N + 40, 3))
Y = np.array(["a", "b", "c", "d"])[(X[:, :2] + 0.6 * RNG.normal(size=(N + 40, 2)) > 0) @ [1, 2]]
TEST = X[N:], Y[N:]
MACHINES = [
    SVC(C=0.5, tol=1e-9),
    SVC(C=0.5, tol=1e-9, break_ties=True, class_weight={"b": 3.0}),
    SVC(C=0.2, tol=1e-9, kernel="linear", class_weight="balanced"),
    SVC(C=0.2, tol=1e-9, kernel="poly", degree=2, coef0=1.0, decision_function_shape="ovo"),
]
by_machine = pytest.mark.parametrize("estimator", MACHINES, ids=str)


@by_machine
def test_outputs_and_votes_are_the_estimators_own(estimator):
    model = clone(estimator).fit(X[:N], Y[:N])
    problem = from_estimator(model, X[:N], Y[:N])
    in_pairs = clone(model).set_params(decision_function_shape="ovo", break_ties=False).fit(X[:N], Y[:N])
    outputs = problem.outputs(problem.prepared((X, Y))[0])
    assert_close_per_row(outputs, in_pairs.decision_function(X), 1e-8)
    assert problem.c == K * (K - 1) / 2
    assert problem.classes == ("a", "b", "c", "d")
    said = np.array(problem.classes)[problem.loss.by_class(outputs).argmax(1).numpy()]
    assert (said == model.predict(X)).all()
    accuracy = problem.evaluate(TEST, measures.accuracy)
    assert float(accuracy) == pytest.approx(model.score(*TEST))
    assert said_of(problem, (X[N : N + 1], Y[N : N + 1])).prediction == model.predict(X[N : N + 1])[0]


@by_machine
def test_the_objective_is_the_sum_over_the_pairs(estimator):
    """Of each pair C times the sum of weighted hinges + 1/2 ||f||^2, as from machines of two classes."""
    model = clone(estimator).fit(X[:N], Y[:N])
    settings = {"gamma": model._gamma, "class_weight": None, "break_ties": False}
    weights = dict(zip(model.classes_, model.class_weight_, strict=True))
    problem = from_estimator(model, X[:N], Y[:N], smoothing=0.1)
    total = 0.0
    for i, j in combinations(range(K), 2):
        own = np.isin(Y[:N], model.classes_[[i, j]])
        w = np.array([weights[label] for label in Y[:N][own]])
        alone = clone(model).set_params(**settings).fit(X[:N][own], Y[:N][own], sample_weight=w)
        pair = from_estimator(alone, X[:N][own], Y[:N][own], smoothing=0.1, sample_weight=w)
        total += pair.value() * own.sum()
    assert problem.value() * N == pytest.approx(total, rel=1e-5)


def test_a_row_moves_the_machines_of_its_class_alone():
    model = SVC(tol=1e-9).fit(X[:N], Y[:N])
    problem = from_estimator(model, X[:N], Y[:N], smoothing=0.1)
    for k, (i, j) in enumerate(combinations("abcd", 2)):
        effect = Influence(problem).on_loss(TEST, measure=lambda outputs, targets, k=k: outputs[:, k])
        others = torch.from_numpy(~np.isin(Y[:N], [i, j]))
        size = effect.values.abs().max()
        assert bool((effect.values[:, others].abs() < 1e-10 * size).all())
        assert bool((effect.values[:, ~others].abs().amax(0) > 1e-10 * size).any())


def test_measures_of_pairs():
    problem = from_estimator(SVC().fit(X[:N], Y[:N]), X[:N], Y[:N])
    outputs = problem.outputs(problem.prepared(TEST)[0])
    margins = problem.evaluate(TEST, measures.margin)
    for row, label, found in zip(outputs.tolist(), TEST[1], margins.tolist(), strict=True):
        own = [
            value if label == i else -value
            for value, (i, j) in zip(row, combinations("abcd", 2), strict=True)
            if label in (i, j)
        ]
        assert found == pytest.approx(min(own))
    right = SVC().fit(X[:N], Y[:N]).predict(TEST[0]) == TEST[1]
    assert right[margins.numpy() > 0].all()
    with pytest.raises(ValueError, match=r"no output for a class alone: ask about measures\.margin"):
        problem.evaluate(TEST, measures.logit)
    with pytest.raises(ValueError, match="gives no probabilities"):
        problem.evaluate(TEST, measures.probability)
    with pytest.raises(TypeError, match="with an output for each class"):
        flip_set(Influence(problem), (X[N : N + 1], Y[N : N + 1]))
    changes = Influence(problem).leave_one_out().change(TEST, measure=measures.accuracy)
    assert changes.shape == (1, N)


def test_what_is_shown_of_pairs():
    problem = from_estimator(SVC().fit(X[:N], Y[:N]), X[:N], Y[:N], smoothing=0.1)
    influence = Influence(problem)
    assert "votes decide" in "\n".join(problem.terms.notes)
    assert str(explain(influence, (X[N : N + 1], Y[N : N + 1])))
    table = mislabeled(influence).table
    said = SVC().fit(X[:N], Y[:N]).predict(X[:N])
    assert (table["proposed label"].sort_index().to_numpy() == said).mean() > 0.8


@pytest.mark.parametrize("load", [load_wine, load_digits], ids=["wine", "digits"])
def test_refits_of_the_estimator(load):
    """The smoothed machines of all pairs are as near to refits as one of two classes is: the trend of each row."""
    data, labels = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(data))[:160]
    data, labels = data[order], labels[order] % 4
    data = (data - data.mean(0)) / (data.std(0) + 1e-12)
    fit, test = (data[:-30], labels[:-30]), (data[-30:], labels[-30:])
    problem = from_estimator(SVC(tol=1e-9).fit(*fit), *fit, smoothing=0.02)
    base, refit = problem.evaluate(test), problem.cache["own estimator"]
    rows = list(range(0, 130, 13))
    actual = [refit(torch.from_numpy(np.delete(np.arange(130), i))).evaluate(test) - base for i in rows]
    predicted = Influence(problem).of_each_removal(test).effect()[:, rows]
    both = torch.stack([predicted, torch.stack(actual, 1)]).flatten(1)
    assert float(torch.corrcoef(both)[0, 1]) > 0.85
    assert 0.8 < float((both[0] * both[1]).sum() / both[0].square().sum()) < 1.25


def test_forms_of_inputs():
    model = SVC(tol=1e-9, kernel="linear").fit(sparse.csr_array(X[:N]), Y[:N])
    dense = from_estimator(SVC(tol=1e-9, kernel="linear").fit(X[:N], Y[:N]), X[:N], Y[:N])
    assert_close_per_row(
        from_estimator(model, sparse.csr_array(X[:N]), Y[:N]).outputs(), dense.outputs(), 1e-5
    )
    pipeline = make_pipeline(StandardScaler(), SVC(tol=1e-9)).fit(X[:N], Y[:N])
    assert isinstance(from_estimator(pipeline, X[:N], Y[:N]).loss, SmoothHinge)
    weights = RNG.uniform(0.2, 2, N)
    weights[3] = 0
    weighted = SVC(tol=1e-9).fit(X[:N], Y[:N], sample_weight=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_estimator(weighted, X[:N], Y[:N], sample_weight=weights)
    with pytest.raises(ValueError, match="X is not what the SVC was fitted on"):
        from_estimator(SVC().fit(X[:N], Y[:N]), X[N - 1 :: -1].copy(), Y[:N])


def test_votes():
    cyclic = torch.tensor([[2.0, -1.0, 3.0]])
    assert by_votes(cyclic, "first").argmax(1).tolist() == [0]
    assert by_votes(cyclic, "surest").argmax(1).tolist() == [0]
    assert by_votes(torch.tensor([[1.0, -2.0, 3.0]]), "surest").argmax(1).tolist() == [1]
    assert by_votes(torch.tensor([[torch.nan, -2.0, 3.0]]), "first").isnan().any()
    with pytest.raises(ValueError, match="4 outputs are not those of all pairs"):
        classes_of_pairs(4)
