"""Passes over the rounds, beside the dense Jacobian of the equations of all leaves and beside finite differences."""

import pytest
import torch

from upweight.trees.passes import (
    fit,
    leaf_values,
    multiply,
    row_equations,
    row_products,
    solve_backwards,
    solve_forwards,
)
from upweight.trees.structure import Tree

from ..support.compare import assert_close_per_row
from ..support.ensembles import ALL, equations, invented, jacobians

CASES = [
    (name, steps, bags)
    for name in ALL
    for steps, bags in (((1.0,), False), ((1.0, 0.5), False), ((1.0,), True))
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{len(case[1])} steps{'-bags' * case[2]}")
def trained(request):
    name, steps, bags = request.param
    return invented(*ALL[name], steps=steps, bags=bags)


def rows_of(trained, k=3):
    return torch.randn(k, trained.structure.p, generator=torch.Generator().manual_seed(1)).double()


def test_the_leaf_values_solve_their_equations(trained):
    fitted = fit(trained)
    left = equations(trained, fitted.theta, trained.w)
    assert left.abs().max() < 1e-12


def test_solves_and_products_are_those_of_the_dense_matrix(trained):
    fitted, v = fit(trained), rows_of(trained)
    A, C = jacobians(trained, fitted)
    # Where l1 holds a value at 0 nothing moves it, and the dense matrix has a kink there.
    assert not fitted.below.isinf().any()
    assert_close_per_row(multiply(trained, fitted, v), v @ A.T, 1e-10)
    assert_close_per_row(solve_forwards(trained, fitted, v), torch.linalg.solve(A, v.T).T, 1e-10)
    assert_close_per_row(solve_backwards(trained, fitted, v), torch.linalg.solve(A.T, v.T).T, 1e-10)
    assert_close_per_row(row_products(trained, fitted, v), v @ C.T, 1e-10)
    assert_close_per_row(row_equations(trained, fitted.theta), C, 1e-10)


def test_the_derivative_is_that_of_leaves_fitted_with_other_weights(trained):
    fitted, v = fit(trained), rows_of(trained)
    found = row_products(trained, fitted, solve_backwards(trained, fitted, v))
    step, places = 1e-5, range(0, trained.n, 9)
    expected = []
    for i in places:
        moved = []
        for sign in (1, -1):
            w = trained.w.clone()
            w[i] *= 1 + sign * step
            moved.append(fit(trained.with_weights(w)).theta)
        expected.append(v @ (moved[0] - moved[1]) / (2 * step))
    assert_close_per_row(found[:, list(places)].T, torch.stack(expected), 1e-7)


@pytest.mark.parametrize("k", [1, 5])
def test_one_question_and_many_are_answered_alike(k):
    trained = invented(*ALL["softmax"], bags=True)
    fitted, v = fit(trained), rows_of(trained, 5)
    together = solve_backwards(trained, fitted, v)[:k]
    assert_close_per_row(solve_backwards(trained, fitted, v[:k]), together, 1e-12)
    assert_close_per_row(
        solve_forwards(trained, fitted, v[:k]), solve_forwards(trained, fitted, v)[:k], 1e-12
    )


def test_values_are_pulled_to_0_and_clipped_and_then_stay():
    tree = Tree(0, 0, 4, torch.ones(4, dtype=torch.float64), l1=1.0, limit=2.0)
    G, H = torch.tensor([[0.5, -9.0, 3.0, 0.0], [0.0, 1.0, 1.0, 0.0]]).double()
    value, below = leaf_values(tree, G, H)
    assert value.tolist() == [0.0, -2.0, 1.0, 0.0]
    assert below.tolist() == [torch.inf, torch.inf, 2.0, torch.inf]


def test_leaves_that_are_held_have_no_influence_and_feel_none():
    trained = invented(*ALL["squared"], l1=2.0)
    fitted, v = fit(trained), rows_of(trained)
    held = fitted.below.isinf()
    assert 0 < held.sum() < len(held)
    assert (solve_backwards(trained, fitted, v)[:, held] == 0).all()
    assert (solve_forwards(trained, fitted, v)[:, held] == 0).all()


def test_a_leaf_without_rows_and_damping_is_told():
    trained = invented(*ALL["squared"])
    for one in trained.structure.rounds:
        for tree in one.trees:
            tree.damping.zero_()
    w = trained.w.clone()
    w[trained.structure.leaf[1] == 2] = 0
    fitted = fit(trained.with_weights(w))
    assert fitted.empty.nonzero().flatten().tolist() == [1 + 4 + 2]
    assert fitted.theta[7] == 0
