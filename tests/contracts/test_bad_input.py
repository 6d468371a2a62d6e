"""Bad input to `LinearProblem` and its questions: an error that names what arrived, never a number."""

import numpy as np
import pytest
import torch
from scipy import sparse

from tests.support.cases import draw
from upweight import Influence, LinearProblem, Logistic, SmoothHinge, Softmax, Squared, SquaredHinge
from upweight.measures import logit

X, Y = draw(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])


def softmax(X=X, y=Y, coef=None, intercept=None, **options):
    coef = draw(3, 3, seed=9) if coef is None else coef
    return LinearProblem(X, y, coef, intercept, **{"loss": Softmax(), "l2": 0.1, **options})


def spoiled(value: float, at=(4, 1)) -> torch.Tensor:
    out = X.clone()
    out[at] = value
    return out


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite(bad: float):
    for form in (spoiled(bad), spoiled(bad).numpy(), sparse.csr_array(spoiled(bad).numpy())):
        with pytest.raises(ValueError, match="X has a NaN or infinity, first in example 4"):
            softmax(form)
    with pytest.raises(ValueError, match="y has a NaN or infinity, first in example 2"):
        LinearProblem(X, torch.tensor([0, 1, bad, 0, 0, 0]), draw(3), loss=Squared())
    coef = draw(3, 3)
    coef[1, 2] = bad
    with pytest.raises(ValueError, match="coef or intercept has a NaN or infinity, first at entry 5"):
        softmax(coef=coef)
    with pytest.raises(ValueError, match="coef or intercept"):
        softmax(intercept=[0.0, bad, 0.0])
    with pytest.raises(ValueError, match="weights must be finite"):
        softmax(weights=[1, 1, 1, 1, 1, bad])
    with pytest.raises(ValueError, match="l2"):
        softmax(l2=bad)
    influence = Influence(softmax())
    with pytest.raises(ValueError, match="the batch's inputs has a NaN or infinity, first in example 4"):
        influence.on_loss((spoiled(bad), Y))


@pytest.mark.parametrize(("y", "words"), [
    ([0, 1, 3, 0, 1, 2], "target 3 of example 2 is out of range: the model has 3 outputs"),
    ([0, -1, 2, 0, 1, 2], "target -1 of example 1 is out of range"),
    ([0, 0.5, 2, 0, 1, 2], "whole numbers"),
    ([[0], [1], [2], [0], [1], [2]], r"shape \(n,\), got \(6, 1\)"),
    ([0, 1, 2], "X has 6 examples, y has 3"),
])  # fmt: skip
def test_targets_of_softmax(y, words: str):
    with pytest.raises(ValueError, match=words):
        softmax(y=torch.tensor(y))
    if len(y) == 6:
        with pytest.raises(ValueError, match=words):
            Influence(softmax()).on_loss((X, torch.tensor(y)))


@pytest.mark.parametrize("loss", [Logistic(), SmoothHinge(0.1)])
@pytest.mark.parametrize(("y", "words"), [
    ([0, 1, 2, 0, 1, 1], "binary targets must be 0/1 or -1/\\+1, got the values"),
    ([-1, 0, 1, 0, 1, 1], "binary targets must be 0/1 or -1/\\+1"),
    ([[0], [1], [1], [0], [1], [1]], "shape"),
])  # fmt: skip
def test_targets_of_binary_losses(loss, y, words: str):
    with pytest.raises(ValueError, match=words):
        LinearProblem(X, torch.tensor(y), draw(3), loss=loss)


def test_one_against_the_rest_takes_classes():
    with pytest.raises(ValueError, match="target 3 of example 1 is out of range: the model has 3 outputs"):
        softmax(y=torch.tensor([0, 3, 0, 1, 0, 1]), loss=Logistic())
    with pytest.raises(ValueError, match=r"class targets must have shape \(n,\), got \(6, 3\)"):
        softmax(y=torch.ones(6, 3), loss=SquaredHinge())


def test_targets_of_squared():
    with pytest.raises(ValueError, match="targets have 1 columns, the model has 3 outputs"):
        softmax(loss=Squared())
    with pytest.raises(ValueError, match="targets have 2 columns, the model has 1 outputs"):
        LinearProblem(X, draw(6, 2), draw(3), loss=Squared())


@pytest.mark.parametrize("form", [torch.zeros(0, 3), np.zeros((0, 3)), sparse.csr_array((0, 3))])
def test_empty(form):
    with pytest.raises(ValueError, match="X is empty"):
        softmax(form, torch.zeros(0, dtype=torch.long))
    with pytest.raises(ValueError, match="the batch's inputs is empty"):
        Influence(softmax()).on_loss((form, torch.zeros(0, dtype=torch.long)))


def test_shapes():
    with pytest.raises(ValueError, match=r"must have shape \(n, d\), got \(6,\)"):
        softmax(X[:, 0])
    with pytest.raises(ValueError, match="coef has 4 columns, X has 3"):
        softmax(coef=draw(3, 4))
    with pytest.raises(ValueError, match="intercept has 2 entries, coef has 3 rows"):
        softmax(intercept=[0.0, 1.0])
    with pytest.raises(ValueError, match=r"weights must have shape \(6,\), got \(5,\)"):
        softmax(weights=torch.ones(5))
    with pytest.raises(ValueError, match=r"l2 must be a number or have shape \(9,\), got shape \(3,\)"):
        softmax(l2=torch.ones(3))
    with pytest.raises(ValueError, match="coef must"):
        softmax(coef=draw(3, 3, 1))


def test_keep_and_penalty_and_weights():
    with pytest.raises((ValueError, Exception), match="keep"):
        softmax(keep="median")
    with pytest.raises(ValueError, match=r"l2 must be >= 0 and finite, got -0.1"):
        softmax(l2=-0.1)
    with pytest.raises(ValueError, match="l2"):
        softmax(l2=torch.tensor([0.1] * 8 + [-1.0]))
    with pytest.raises(ValueError, match="l2_intercept"):
        softmax(intercept=[0.0, 0.0, 0.0], l2_intercept=-1.0)
    with pytest.raises(ValueError, match="weights must be finite and >= 0"):
        softmax(weights=[1, 1, 1, 1, 1, -1])
    with pytest.raises(ValueError, match="temperature must be > 0"):
        SmoothHinge(0.0)


@pytest.mark.parametrize("question", ["on_loss", "on_params", "on_inputs"])
def test_questions(question: str):
    influence = Influence(softmax())

    def ask(batch):
        return (
            influence.on_inputs(batch, (X, Y))
            if question == "on_inputs"
            else getattr(influence, question)(batch)
        )

    with pytest.raises(ValueError, match="the batch has 2 columns, the model was trained on 3"):
        ask((X[:, :2], Y))
    with pytest.raises(ValueError, match=r"X has 6 examples, y has 5|the batch has 6 examples"):
        ask((X, Y[:5]))
    with pytest.raises(ValueError, match=r"shape \(n, d\), got \(3,\)"):
        ask((X[0], Y[:1]))
    with pytest.raises(ValueError, match="target 7 of example 1 is out of range"):
        ask((X[:2], torch.tensor([0, 7])))
    with pytest.raises(TypeError, match=r"a batch is \(inputs, targets\), got Tensor"):
        ask(X)
    with pytest.raises(TypeError, match=r"a batch is \(inputs, targets\)"):
        ask({"x": X})


def test_measures_with_targets_of_another_length():
    with pytest.raises(ValueError, match="examples"):
        Influence(softmax()).on_loss((X, Y[:5]), measure=logit)


def test_read_only_arrays_are_no_cause_for_a_warning():
    """pandas hands out read-only arrays; torch warns about them once per process unless told to warn always."""
    parts = [a.numpy().copy() for a in (X, Y, draw(3, 3), draw(3, seed=1), torch.ones(6))]
    for part in parts:
        part.setflags(write=False)
    torch.set_warn_always(True)
    try:
        problem = softmax(*parts[:4], weights=parts[4])
        Influence(problem).on_loss((parts[0], parts[1]))
    finally:
        torch.set_warn_always(False)
