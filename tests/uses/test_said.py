"""What a model says of a row, in words: against scikit-learn's own predictions and probabilities."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.svm import LinearSVC

import upweight as uw
from tests.support.classifiers import network
from upweight.losses import LinearLoss, Squared, Tweedie
from upweight.losses.generalised import GeneralisedLinear
from upweight.losses.offsets import WithOffset
from upweight.losses.proportions import Proportion
from upweight.uses.said import Said, said_of

rng = np.random.default_rng(0)
X = rng.normal(size=(90, 3))
THREE = np.array(["a", "b", "c"])[np.argmax(X + 0.7 * rng.normal(size=X.shape), axis=1)]
TWO = np.where(X[:, 0] + rng.normal(size=90) > 0, "yes", "no")


@pytest.mark.parametrize(
    ("model", "y"),
    [
        (LogisticRegression(tol=1e-9, max_iter=1000), TWO),
        (LogisticRegression(tol=1e-9, max_iter=1000), THREE),
    ],
    ids=["two", "three"],
)
def test_classes_have_their_probabilities_and_the_loss(model, y):
    model.fit(X, y)
    problem = uw.from_estimator(model, X, y)
    given, names = model.predict_proba(X), list(model.classes_)
    for row in range(0, 90, 7):
        found = said_of(problem, (X[[row]], y[[row]]))
        own = given[row, names.index(y[row])]
        assert (found.prediction, found.label) == (model.predict(X[[row]])[0], y[row])
        assert found.probabilities == pytest.approx((given[row].max(), own), rel=1e-6)
        assert found.loss == pytest.approx(-np.log(own), rel=1e-6)


def test_what_a_model_of_logarithms_says_is_in_the_unit_of_the_target() -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 2))
    y = generator.poisson(np.exp(X[:, 0])).astype(float)
    model = PoissonRegressor(alpha=0.1, tol=1e-10).fit(X, y)
    said = said_of(uw.from_estimator(model, X, y), (X[:1], y[:1]))
    assert said.prediction == pytest.approx(model.predict(X[:1])[0], rel=1e-9)
    assert said.label == y[0]
    assert "logarithms of means" in str(said)


@pytest.mark.parametrize(
    ("loss", "mean"),
    [
        (Tweedie(1.5), math.exp(0.3)),
        (GeneralisedLinear("gamma", "inverse"), 1 / 0.3),
        (Proportion("logit"), 1 / (1 + math.exp(-0.3))),
        (WithOffset(Tweedie(1)), math.exp(0.5)),
        (WithOffset(Squared()), 0.5),
    ],
)
def test_means_that_outputs_stand_for(loss: LinearLoss, mean: float) -> None:
    assert loss.means is not None
    found = loss.means(torch.tensor([[0.3]]), torch.tensor([[0.7, 0.2]]))
    assert float(found) == pytest.approx(mean, rel=1e-6)


def test_a_hinge_gives_a_class_and_no_probability():
    model = LinearSVC(tol=1e-9, max_iter=100_000).fit(X, TWO)
    found = said_of(uw.from_estimator(model, X, TWO), (X[:1], TWO[:1]))
    assert found.prediction == model.predict(X[:1])[0]
    assert found.probabilities is None
    assert "probability" not in str(found)


def test_a_quantity_has_a_value_in_its_own_unit():
    y = 1000 * X[:, 0]
    model = Ridge().fit(X, y)
    found = said_of(uw.from_estimator(model, X, y), (X[:1], y[:1]))
    assert found.quantity
    assert found.prediction == pytest.approx(model.predict(X[:1])[0])
    assert found.label == pytest.approx(y[0])
    assert "the true value is" in str(found)


def test_of_a_network_the_loss_alone_is_known():
    problem, (inputs, targets) = network()
    found = said_of(problem, (inputs[:1], targets[:1]))
    assert found == Said(loss=float(problem.evaluate((inputs[:1], targets[:1]))[0]))
    assert str(found).startswith("The loss is ")
    assert str(Said()) == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            Said("a", "a", 0.5, (0.75, 0.75)),
            "The model says 'a', the label is 'a'. It gives 'a' a probability of 75.0%; the loss is 0.5.",
        ),
        (
            Said("a", "b", 2.0, (0.75, 0.2)),
            "The model says 'a', the label is 'b'. It gives 'a' a probability of 75.0%, 'b' one of 20.0%; "
            "the loss is 2.",
        ),
        (
            Said("a", None, 0.5, (0.75, 0.75), unit="kind"),
            "The model says 'a', the row has no kind: 'a' is taken in its place. It gives 'a' a probability of 75.0%; "
            "the loss is 0.5.",
        ),
        (
            Said(12500.0, 12000.0, 1.0, quantity=True, unit="price"),
            "The model says price = 12,500, the true value is 12,000: 500 too high.",
        ),
        (Said(1.0, 1.0, 0.0, quantity=True), "The model says 1, the true value is 1: exactly right."),
        (Said(1.5, None, quantity=True, unit="price"), "The model says price = 1.5; the row has no price."),
    ],
)
def test_what_is_said_in_words(said, words):
    assert str(said) == words
