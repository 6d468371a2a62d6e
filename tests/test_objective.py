"""A problem never changes: not by assignment, not by its user's arrays, and a copy starts with nothing computed."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression

import upweight as uw
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight.data.user_terms import Terms

N, D = 60, 3


def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, D, generator=generator, dtype=torch.float64)
    return X, (X[:, 0] + 0.3 * torch.randn(N, generator=generator) > 0).long()


def linear(**options: Any) -> uw.LinearProblem:
    X, y = drawn()
    return uw.LinearProblem.fit(X, y, loss=uw.Logistic(), **{"l2": 0.01, **options})


def scores(problem: Any) -> uw.Scores:
    X, y = drawn()
    return uw.Influence(problem).on_loss((X[:2], y[:2]))


@pytest.mark.parametrize("field", ["weights", "l2", "keep", "theta", "penalty", "terms", "n", "novelty"])
@pytest.mark.parametrize("make", [linear, lambda: problem_of("mlp")], ids=["linear", "network"])
def test_no_field_can_be_set_or_deleted(make, field: str):
    problem = make()
    before = problem.fingerprint()
    with pytest.raises(AttributeError, match=rf"does not change.*'{field}'.*changed\({field}=\.\.\.\)"):
        setattr(problem, field, 1)
    with pytest.raises(AttributeError, match="does not change"):
        delattr(problem, field)
    assert problem.fingerprint() == before


@pytest.mark.parametrize(
    "change",
    [
        {"weights": torch.linspace(0.2, 1.0, N).double()},
        {"l2": 1.0},
        {"keep": "total"},
        {"theta": torch.ones(D).double()},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_changed_copy_answers_as_a_problem_made_anew(change: dict[str, Any]):
    X, y = drawn()
    problem = linear()
    asked = scores(problem)  # fills the cache
    copy = problem.changed(**change)
    settings = {
        "weights": problem.weights,
        "l2": problem.l2,
        "keep": problem.keep,
        "theta": problem.theta,
    } | change
    theta = settings.pop("theta")
    fresh = uw.LinearProblem(X, y, theta.view(1, -1), loss=uw.Logistic(), **settings)
    assert_close_per_row(scores(copy).values, scores(fresh).values, 1e-12)
    assert copy.fingerprint() == fresh.fingerprint() != problem.fingerprint()
    assert torch.equal(scores(problem).values, asked.values)


def test_a_changed_network_answers_as_one_made_anew():
    problem = problem_of("mlp", weights=None)
    before = problem.train_gradients(torch.arange(3))
    copy = problem.changed(weights=torch.full((problem.n,), 2.0), l2=0.3)
    assert_close_per_row(
        copy.train_gradients(torch.arange(3)) - copy.folded_penalty,
        2 * (before - problem.folded_penalty),
        1e-9,
    )
    assert copy.fingerprint() != problem.fingerprint()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": torch.ones(3)}, r"weights must have shape \(60,\)"),
        ({"weights": -torch.ones(N)}, "finite and >= 0"),
        ({"l2": -1.0}, "l2 must be >= 0"),
        ({"keep": "both"}, 'must be "mean" or "total"'),
        ({"theta": torch.ones(2)}, r"theta must have shape \(3,\)"),
    ],
)
def test_a_change_is_checked(change: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        linear().changed(**change)


def test_a_field_that_cannot_be_changed_is_named():
    with pytest.raises(TypeError, match=r"keep, l2, terms, theta, weights can be changed, not X"):
        linear().changed(X=1)


def test_a_store_of_another_penalty_is_refused(tmp_path):
    X, y = drawn()
    problem = linear()
    uw.Influence(problem).on_loss((X[:1], y[:1]), store=tmp_path)
    with pytest.raises(uw.StaleError, match="other weights, data, settings or test rows"):
        uw.Influence(problem.changed(l2=1.0)).on_loss((X[:1], y[:1]), store=tmp_path)


def moved_by(kind: str) -> tuple[Any, Any]:
    """A problem, and what changes its data in place."""
    X, y = drawn()
    if kind == "tensor":
        return uw.LinearProblem.fit(X, y, loss=uw.Logistic(), l2=0.1), lambda: X.mul_(2)
    if kind == "one number of a large tensor":
        large = torch.zeros(200_000, D, dtype=torch.float64)
        large[:N] = X
        y = torch.cat([y, torch.zeros(200_000 - N).long()])
        problem = uw.LinearProblem(large, y, torch.ones(1, D), loss=uw.Logistic(), l2=0.1)
        return problem, lambda: large[777].add_(1)
    if kind == "array of an estimator":
        array = X.numpy().copy()
        problem = uw.from_estimator(LogisticRegression().fit(array, y), array, y)

        def scale() -> None:
            array[:] = 10 * (array - array.mean(0))

        return problem, scale
    if kind == "sparse":
        matrix = sparse.csr_array(X.numpy().copy())
        problem = uw.LinearProblem.fit(matrix, y, loss=uw.Logistic(), l2=0.1)
        return problem, lambda: np.multiply(matrix.data, 2, out=matrix.data)
    problem = linear()
    return problem, lambda: getattr(problem, kind).mul_(2)


@pytest.mark.parametrize(
    "kind",
    ["tensor", "one number of a large tensor", "array of an estimator", "sparse", "theta", "weights", "l2"],
)
def test_data_that_moved_are_an_error_for_every_question(kind: str, tmp_path):
    X, y = drawn()
    test = (X[:2].clone(), y[:2].clone())
    problem, move = moved_by(kind)
    influence = uw.Influence(problem)
    influence.on_loss(test)
    move()
    rows = torch.arange(2)
    questions = {
        "on_loss": lambda: influence.on_loss(test),
        "a new influence": lambda: uw.Influence(problem).on_loss(test),
        "on_self": lambda: influence.on_self(),
        "leave_one_out": lambda: influence.leave_one_out(),
        "of_removal": lambda: influence.of_removal([0, 1], test),
        "on_params": lambda: influence.on_params(problem.train_batch(rows)),
        "store": lambda: influence.on_loss(test, store=tmp_path),
    }
    for name, ask in questions.items():
        with pytest.raises(uw.StaleError, match="changed in place"):
            pytest.fail(f"{name} answered: {ask()}")


def test_before_a_store_is_written_all_numbers_are_compared(tmp_path):
    """A row that the sample does not hold, changed behind torch's back."""
    X, y = drawn()
    array = np.zeros((200_000, D))
    array[:N] = X.numpy()
    problem = uw.LinearProblem(
        array, torch.zeros(200_000).long(), torch.ones(1, D), loss=uw.Logistic(), l2=0.1
    )
    influence = uw.Influence(problem)
    influence.on_loss((X[:1], y[:1]), top=3)  # takes the fingerprint
    array[777] += 1
    with pytest.raises(uw.StaleError, match="changed in place"):
        influence.on_loss((X[:1], y[:1]), store=tmp_path)
    assert not list(tmp_path.glob("scores-*"))


def test_edits_of_the_users_targets_and_weights_change_nothing():
    X, y = drawn()
    weights = torch.ones(N, dtype=torch.float64)
    problem = uw.LinearProblem.fit(X, y, loss=uw.Softmax(), outputs=2, l2=0.1, weights=weights)
    before = scores(problem).values
    asked = (X[:2].clone(), y[:2].clone())
    y.zero_()
    weights.zero_()
    assert torch.equal(uw.Influence(problem).on_loss(asked).values, before)


BOTH = pytest.mark.parametrize("make", [linear, lambda: problem_of("mlp")], ids=["linear", "network"])


@BOTH
def test_products_of_all_examples_are_those_with_their_gradients(make):
    problem = make()
    rows = torch.randn(3, problem.p, generator=torch.Generator().manual_seed(1)).double()
    wanted = rows @ problem.train_gradients(torch.arange(problem.n)).T
    assert_close_per_row(problem.all_products(rows), wanted, 1e-9)
    for part, values in problem.products(rows, slice(3, 8)):
        assert_close_per_row(values, wanted[:, part], 1e-9)


@BOTH
def test_gradients_of_training_and_of_test_examples_differ_by_weight_and_penalty(make):
    problem = make().changed(keep="mean", l2=0.3)
    index = torch.tensor([4, 1])
    test = problem.test_gradients(problem.train_batch(index))
    as_train = problem.gradients_as_train(problem.train_batch(index))
    assert_close_per_row(as_train, test + 0.3 * problem.theta, 1e-12)
    wanted = problem.weights[index, None].to(test) * test + 0.3 * problem.theta
    assert_close_per_row(problem.train_gradients(index), wanted, 1e-9)
    total = problem.changed(keep="total")
    assert not total.folded_penalty.any()
    assert_close_per_row(total.gradients_as_train(problem.train_batch(index)), test, 1e-12)


@BOTH
@pytest.mark.parametrize("keep", ["mean", "total"])
def test_the_gradient_of_the_objective_is_the_mean_of_the_examples(make, keep: str):
    problem = make().changed(keep=keep)
    problem = problem.at(problem.theta + 0.1)  # not where it vanishes
    mean = problem.train_gradients(torch.arange(problem.n)).mean(0)
    whole = mean if keep == "mean" else mean + problem.l2 * problem.theta
    assert_close_per_row(problem.gradient()[None], whole[None], 1e-9)


@BOTH
def test_parameters_by_name_are_theta(make):
    problem = make()
    assert torch.equal(problem.layout.pack(problem.params), problem.theta)
    assert list(problem.params) == list(problem.layout.names)
    assert problem.p == len(problem.theta)
    assert (problem.dtype, problem.device) == (problem.theta.dtype, problem.theta.device)


@BOTH
def test_a_problem_elsewhere_shares_the_data_and_nothing_computed(make):
    problem = make()
    problem.spectra["kept"] = (0.0, 1.0)
    there = problem.at(problem.theta + 1)
    assert "kept" not in there.spectra
    assert_close_per_row(there.theta[None], problem.theta[None] + 1, 1e-12)
    assert torch.equal(there.weights, problem.weights)
    assert torch.equal(there.at(problem.theta).gradient(), problem.gradient())


@BOTH
def test_a_subset_is_in_the_order_of_its_index(make):
    problem = make()
    index = torch.tensor([7, 2, 5])
    some = problem.subset(index)
    assert some.n == 3
    assert torch.equal(some.weights, problem.weights[index])
    assert_close_per_row(some.train_losses()[:, None], problem.train_losses()[index][:, None], 1e-12)
    assert some.fingerprint() != problem.fingerprint()


@BOTH
def test_the_fingerprint_is_that_of_all_that_changes_an_answer(make):
    problem = make()
    made = [
        problem,
        problem.changed(l2=0.7),
        problem.changed(keep="total" if problem.keep == "mean" else "mean"),
        problem.changed(weights=problem.weights + 1),
        problem.at(problem.theta + 1e-12),
    ]
    assert len({other.fingerprint() for other in made}) == len(made)
    renamed = problem.changed(terms=Terms(notes=("words alone",)))
    assert renamed.fingerprint() == problem.fingerprint() == make().fingerprint()


def test_names_of_the_users_data():
    terms = Terms(
        feature_names=("a", "b", "c"), train_index=pd.RangeIndex(100, 100 + N), classes=("no", "yes")
    )
    problem = linear().changed(terms=terms)
    assert problem.feature_names == ("a", "b", "c")
    assert problem.classes == ("no", "yes")
    index = problem.subset(torch.tensor([3, 0])).train_index
    assert index is not None
    assert index.tolist() == [103, 100]
    assert (linear().feature_names, linear().train_index, linear().classes) == (None, None, None)
