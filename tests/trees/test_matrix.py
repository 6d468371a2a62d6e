"""The matrix of the equations written out, and numbers that are kept, beside passes that compute everything anew."""

from dataclasses import replace

import pytest
import torch

from upweight.trees import matrix, rows
from upweight.trees.matrix import derivatives, worth_writing
from upweight.trees.passes import fit, multiply, row_products, solve_backwards, solve_forwards
from upweight.trees.rows import keep
from upweight.trees.stages import Boosting

from ..support.compare import assert_close_per_row
from ..support.ensembles import ALL, LOSSES, invented, jacobians


@pytest.mark.parametrize("bags", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_it_is_the_dense_jacobian(name, bags):
    trained = invented(*LOSSES[name], bags=bags)
    fitted = fit(trained)
    A, _ = jacobians(trained, fitted)
    assert not fitted.below.isinf().any()
    assert_close_per_row(derivatives(trained, fitted), A, 1e-10)


def test_trees_are_counted_in_parts(monkeypatch):
    trained = invented(*LOSSES["softmax"])
    fitted = fit(trained)
    whole = derivatives(trained, fitted)
    monkeypatch.setattr(matrix, "TOGETHER", 2 * trained.n)
    assert_close_per_row(derivatives(trained, fitted), whole, 1e-12)


@pytest.mark.parametrize("l1", [0.0, 2.0])
@pytest.mark.parametrize("name", LOSSES)
def test_by_the_matrix_answers_are_those_of_passes(name, l1):
    trained = invented(*LOSSES[name], l1=l1)
    fitted = fit(trained)
    stages, n = Boosting(trained, fitted), trained.n
    v = torch.randn(40, trained.structure.p, generator=torch.Generator().manual_seed(1)).double()
    assert worth_writing(trained, len(v))
    assert_close_per_row(stages.solve(v), n * solve_forwards(trained, fitted, v), 1e-10)
    assert_close_per_row(stages.solve_transposed(v), n * solve_backwards(trained, fitted, v), 1e-10)
    assert_close_per_row(stages.product(v), multiply(trained, fitted, v) / n, 1e-10)


@pytest.mark.parametrize("steps", [(1.0,), (1.0, 0.5)])
@pytest.mark.parametrize("name", ALL)
def test_what_is_kept_answers_as_what_is_computed_anew(name, steps, monkeypatch):
    trained = invented(*ALL[name], steps=steps, bags=True)
    fitted = fit(trained)
    monkeypatch.setattr(rows, "TREES", 2)
    kept = replace(fitted, kept=keep(trained, fitted.theta))
    v = torch.randn(3, trained.structure.p, generator=torch.Generator().manual_seed(1)).double()
    for question in (multiply, solve_forwards, solve_backwards, row_products):
        assert_close_per_row(question(trained, kept, v), question(trained, fitted, v), 1e-12)


def test_too_much_is_not_kept_and_answered_all_the_same(monkeypatch):
    trained = invented(*LOSSES["logistic"])
    fitted = fit(trained)
    v = torch.randn(3, trained.structure.p, generator=torch.Generator().manual_seed(1)).double()
    expected = Boosting(trained, fitted).row_products(v)
    monkeypatch.setattr(rows, "KEPT", 0)
    assert keep(trained, fitted.theta) is None
    assert_close_per_row(Boosting(trained, fitted).row_products(v), expected, 1e-12)


def test_the_matrix_is_for_many_questions_about_few_leaves(monkeypatch):
    trained = invented(*LOSSES["logistic"])
    assert not worth_writing(trained, 0)
    assert worth_writing(trained, 100)
    assert not worth_writing(invented(*LOSSES["logistic"], steps=(1.0, 0.5)), 100)
    monkeypatch.setattr(matrix, "PLACES", 2)
    assert not worth_writing(trained, 100)
