"""Rankings under resampling against refits of reweighted data, and simpler rankings beside them."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

import upweight as uw
from tests.support.classifiers import network
from upweight.uses.baselines import baselines, distances
from upweight.uses.stability import Stability, stability

DRAWN = 6


def data(name):
    X, y = (load_diabetes if name == "diabetes" else load_wine)(return_X_y=True)
    X, y = (X, y) if name == "diabetes" else (X[y < 2], y[y < 2])
    order = np.random.default_rng(0).permutation(len(X))[:120]
    return StandardScaler().fit_transform(X[order]), y[order]


@pytest.mark.parametrize("name", ["diabetes", "wine"])
def test_the_top_ten_of_resamples_are_those_of_refits(name, monkeypatch):
    """Judged by the estimator itself: fitted again on the reweighted rows with each row once and not at all."""
    X, y = data(name)
    test, (X, y) = (X[:1], y[:1]), (X[1:], y[1:])
    quantity = name == "diabetes"
    make = Ridge if quantity else (lambda: LogisticRegression(solver="newton-cholesky", tol=1e-10))
    influence = uw.Influence(uw.from_estimator(make().fit(X, y), X, y))
    found = stability(influence, test, resamples=DRAWN, k=10)
    weights = (
        torch.rand(DRAWN, len(X), generator=torch.Generator().manual_seed(0), dtype=torch.float64).log().neg()
    )
    weights *= len(X) / weights.sum(1, keepdim=True)

    def loss(w):
        model = make().fit(X, y, sample_weight=w)
        if quantity:
            return 0.5 * float((model.predict(test[0])[0] - test[1][0]) ** 2)
        return float(np.logaddexp(0, -(2 * test[1][0] - 1) * model.decision_function(test[0])[0]))

    counts = np.zeros((2, len(X)))
    for w in weights.numpy():
        effect = np.empty(len(X))
        for i in range(len(X)):
            without, once = w.copy(), w.copy()
            without[i], once[i] = 0, 1
            effect[i] = loss(without) - loss(once)
        order = effect.argsort()
        counts[0, order[::-1][:10]] += 1
        counts[1, order[:10]] += 1
    overlap = np.minimum(counts, found.counts.numpy()).sum() / counts.sum()
    assert overlap > (0.95 if quantity else 0.85)


def test_equal_weights_give_the_newton_steps_of_each_row(monkeypatch):
    X, y = data("wine")
    influence = uw.Influence(uw.from_estimator(LogisticRegression(tol=1e-10).fit(X, y), X, y))
    monkeypatch.setattr(torch, "rand", lambda *size, **how: torch.full(size, 0.5, dtype=torch.float64))
    found = stability(influence, (X[:1], y[:1]), resamples=1)
    effect = influence.leave_one_out().change((X[:1], y[:1]))[0]
    for side, largest in enumerate((True, False)):
        shown = effect.topk(10, largest=largest).indices
        assert set(found.counts[side].nonzero()[:, 0].tolist()) == set(shown.tolist())


def test_several_outputs_and_another_measure():
    X, y = load_wine(return_X_y=True)
    X = StandardScaler().fit_transform(X)
    influence = uw.Influence(uw.from_estimator(LogisticRegression(tol=1e-8).fit(X, y), X, y))
    found = stability(influence, (X[:1], y[:1]), k=3, measure=uw.measures.margin, resamples=4)
    assert found.counts.sum(1).tolist() == [12, 12]
    assert int(found.counts.max()) <= 4


def test_explain_shows_it_and_what_simpler_rankings_find():
    X, y = data("wine")
    influence = uw.Influence(uw.from_estimator(LogisticRegression().fit(X, y), X, y))
    found = uw.explain(influence, (X[:1], y[:1]), k=5, resamples=20)
    assert found.stable is not None
    column = found.helpful["stays in top 5 (%)"]
    assert column.tolist() == (5 * found.stable.counts[0, torch.tensor(column.index.tolist())]).tolist()
    stays, beside = found.comparisons
    assert stays.startswith("If the training rows were resampled")
    assert beside.startswith("Of these 10 rows, ")
    assert stays in repr(found)
    assert beside in found._repr_html_()
    assert "stays" not in " ".join(uw.explain(influence, (X[:1], y[:1]), k=5, resamples=0).helpful.columns)
    assert uw.explain(influence, (X[:1], y[:1]), k=5, relative=True).comparisons == ()


def test_baselines_count_the_nearest_and_the_worst_fitted():
    X, y = data("wine")
    problem = uw.from_estimator(LogisticRegression().fit(X, y), X, y)
    X = X * np.arange(1, X.shape[1] + 1)  # the scale of a column does not matter
    other = uw.from_estimator(LogisticRegression().fit(X, y), X, y)
    design = other.prepared((X[:1], y[:1]))[0]
    far = distances(other, design)
    plain = (((X - X[0]) / X.std(0)) ** 2).sum(1)
    np.testing.assert_allclose(far, plain, rtol=1e-9)
    near = torch.from_numpy(plain.argsort()[:6].copy())
    found = baselines(other, design, near)
    assert found.nearest == 6
    assert "influence adds little to that" in str(found)
    worst = problem.train_losses().topk(6).indices
    assert baselines(problem, problem.prepared((X[:1], y[:1]))[0], worst).loss == 6


def test_what_has_no_answer_says_so():
    X, y = data("diabetes")
    influence = uw.Influence(uw.from_estimator(Ridge().fit(X, y), X, y))
    with pytest.raises(ValueError, match="about one test row"):
        stability(influence, (X[:2], y[:2]))
    with pytest.raises(ValueError, match="auroc is of a whole set"):
        stability(influence, (X[:1], y[:1]), measure=uw.measures.auroc)
    problem, (inputs, targets) = network()
    with pytest.raises(TypeError, match="for linear models"):
        stability(uw.Influence(problem), (inputs[:1], targets[:1]))


def test_a_row_that_stays_and_one_that_does_not_are_counted():
    found = Stability(torch.tensor([[100, 10, 60], [0, 0, 95]]), 100, 1)
    assert "3 rows would" not in found.summary((torch.tensor([0]), torch.tensor([2])))
    assert "2 of these 2 rows would stay" in found.summary((torch.tensor([0]), torch.tensor([2])))
    assert "1 less than every other time" in found.summary((torch.tensor([1]), torch.tensor([2])))


def test_it_is_told_in_a_sentence():
    said = repr(Stability(torch.tensor([[95, 10], [0, 90]]), 100, 1))
    assert said.startswith("Stability: 1 helpful and 1 harmful rows stay among the 1 strongest")
