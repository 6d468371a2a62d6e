"""What torch's short ways get wrong without an error: every question of such a model, and of its plain twin."""

import warnings

import pytest
import torch
import torch.nn.functional as F

from tests.support.small_models import close
from tests.support.treacherous import TREACHEROUS, twins
from upweight import (
    EKFAC,
    ConjugateGradient,
    DerivativeWarning,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    Problem,
)
from upweight.network.shortcuts import Shortcuts

every_kind = pytest.mark.parametrize("kind", TREACHEROUS)


def problems(kind, **options):
    model, twin, data = twins(kind, **options)
    return Problem(model, F.cross_entropy, data, l2=0.01), Problem(twin, F.cross_entropy, data, l2=0.01), data


@every_kind
@pytest.mark.parametrize("n", [20, 40])  # cdist goes another way above 25 rows
@pytest.mark.filterwarnings("ignore::upweight.DerivativeWarning", "ignore:There is a performance drop")
def test_all_questions_have_the_numbers_of_plain_arithmetic(kind, n):
    problem, twin, (X, y) = problems(kind, n=n)
    few, many = (X[:3], y[:3]), (X[:18], y[:18])
    for make in (
        lambda p: {"curvature": GaussNewton(p, 0.1), "solver": Exact()},
        lambda p: {"curvature": GaussNewton(p, 0.1), "solver": ConjugateGradient(rtol=1e-9)},
        lambda p: {"curvature": Hessian(p, 1.0), "solver": Exact()},
        lambda p: {"curvature": EKFAC(p, 0.1)},
        lambda p: {},
    ):
        mine, right = Influence(problem, **make(problem)), Influence(twin, **make(twin))
        for test in (few, many):
            close(mine.on_loss(test).values, right.on_loss(test).values, 1e-5)
        close(mine.on_self().values, right.on_self().values, 1e-5)
    close(problem.test_gradients(few), twin.test_gradients(few), 1e-6)
    close(mine.on_inputs(few, few).flatten(1), right.on_inputs(few, few).flatten(1), 1e-5)


@every_kind
def test_a_slower_way_is_said_once(kind):
    problem, _, (X, y) = problems(kind)
    influence = Influence(problem, curvature=Hessian(problem, 1.0), solver=ConjugateGradient())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        influence.on_loss((X[:3], y[:3]))
        influence.on_loss((X[:3], y[:3]))
        Influence(problem.changed(l2=0.1), curvature=Hessian(problem, 1.0)).on_loss((X[:3], y[:3]))
    told = [str(w.message) for w in said if w.category is DerivativeWarning]
    assert len(told) == len(set(told)) >= 1
    assert all(words in str(influence.settings) for words in told)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_models_that_torch_gets_right_are_believed(dtype):
    _, twin, data = twins("weight norm", dtype=dtype)
    problem = Problem(twin, F.cross_entropy, data, l2=0.01)
    Influence(problem).on_loss(data)  # warnings are errors
    assert not any("wrong" in words for words in problem.remarks)  # that it is slow is said


def test_rounding_of_examples_that_the_model_is_sure_of_is_no_fault():
    _, twin, (X, _) = twins("weight norm", dtype=torch.float32)
    with torch.no_grad():
        twin.out.weight.mul_(60)  # type: ignore[operator,union-attr]
        y = twin(X).argmax(1)
    problem = Problem(twin, F.cross_entropy, (X, y), l2=0.01)
    Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss((X, y))
    assert not any("wrong" in words for words in problem.remarks)  # that it is slow is said


def test_what_torch_cannot_do_is_no_verdict():
    def impossible():
        raise NotImplementedError

    shortcuts = Shortcuts()
    assert shortcuts.go("kind", "words", impossible, lambda: "slow", lambda found: 1.0) == "slow"
    assert (shortcuts.held, shortcuts.remarks) == ({}, [])
