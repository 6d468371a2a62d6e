"""A linear model as one dense layer: outer products against the gradients that they stand for."""

import pytest
import torch

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from upweight.capabilities import LayerGradients, SidesPlan
from upweight.linalg.outer_products import Outer, Pairs, joined
from upweight.linear import one_layer
from upweight.measures import as_measure

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
TIGHT = 1e-10


def layer_of(case: Case) -> LayerGradients:
    layers = case.elsewhere.layers
    assert layers is not None
    return layers


def bare_gradients(case: Case) -> torch.Tensor:
    """(n, p): of the losses, without weight and penalty."""
    return case.elsewhere.test_gradients(case.elsewhere.train_batch(torch.arange(case.n)))


@every_case
def test_the_one_weight_matrix_is_all_of_theta(case: Case):
    layers, problem = layer_of(case), case.elsewhere
    (matrix,) = layers.layout.matrices
    assert (matrix.rows, matrix.columns, matrix.intercept) == (case.c, problem.d, case.intercept)
    assert len(layers.layout.rest) == 0
    stacked = matrix.stack(problem.theta)
    assert torch.equal(stacked[:, : problem.d], problem.params["weight"])
    if case.intercept:
        assert torch.equal(stacked[:, -1], problem.params["bias"])
    assert layers.parameters == set(problem.params)
    assert layers.together
    assert layers.shares_right(0)


@every_case
def test_factors_of_training_examples_make_their_gradients(case: Case):
    layers, rows = layer_of(case), draw(3, case.p)
    blocks = list(layers.train_pairs(rows))
    naive = bare_gradients(case)
    assert [part for part, _, _ in blocks] == [slice(0, case.n)]
    assert_close_per_row(layers.layout.join(blocks[0][1]), naive, TIGHT)
    assert_close_per_row(blocks[0][2], rows @ naive.T, TIGHT)


@pytest.mark.parametrize("size", [1, 7, 40, 4096])
@pytest.mark.parametrize("within", [None, slice(5, 23)])
def test_blocks_of_any_size(size: int, within: slice | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(one_layer, "ROWS", size)
    case = BY_NAME["softmax weights float32"]
    layers, rows, naive = layer_of(case), draw(2, case.p), bare_gradients(case)
    blocks = list(layers.train_pairs(rows, within))
    wanted = range(case.n)[within or slice(None)]
    assert [i for part, _, _ in blocks for i in range(part.start, part.stop)] == list(wanted)
    found = layers.layout.join(joined([pairs for _, pairs, _ in blocks]))
    assert_close_per_row(found, naive[list(wanted)], TIGHT)
    assert_close_per_row(
        torch.cat([products for *_, products in blocks], 1), rows @ naive[list(wanted)].T, TIGHT
    )
    tests = joined(list(layers.test_pairs(case.test)))
    assert_close_per_row(layers.layout.join(tests), case.elsewhere.test_gradients(case.test), TIGHT)


def squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return outputs.square().sum(1)


@every_case
@pytest.mark.parametrize("measure", [None, squares])
def test_factors_of_test_examples_make_their_gradients(case: Case, measure):
    layers = layer_of(case)
    (pairs,) = layers.test_pairs(case.test, as_measure(measure))
    assert pairs.layers[0][0].shape == (5, 1, case.c)
    assert_close_per_row(layers.layout.join(pairs), case.elsewhere.test_gradients(case.test, measure), TIGHT)


def test_vectors_may_be_outer_products_themselves():
    case = BY_NAME["logistic one against the rest"]
    layers = layer_of(case)
    U, W = draw(2, 3, case.c), draw(2, 3, case.p // case.c, seed=1)
    outer = Outer(layers.layout, [(U, W)], torch.zeros(3, 0).double())
    ((_, _, found),) = layers.train_pairs(outer)
    assert_close_per_row(found, outer.flat() @ bare_gradients(case).T, TIGHT)


def pulled(layers: LayerGradients, plan: SidesPlan) -> torch.Tensor:
    """sum_i w_i sum_v (v x_i^T)(v x_i^T)^T / n over all cotangents v, as a flat matrix."""
    total, n = torch.zeros(()), 0
    for cotangents, w in layers.pulled_back(plan, "pass"):
        n += len(w)
        for sides in cotangents:
            assert sides.rest().shape == (len(w), 0)
            flat = layers.layout.join(Pairs([(sides.left(0), sides.right(0))], sides.rest())).double()
            total = total + flat.T @ (w.double()[:, None] * flat)
    return total / n


@every_case
def test_cotangents_make_the_gauss_newton_matrix(case: Case):
    plan = SidesPlan(None, 0, torch.float64)
    wanted = case.elsewhere.gauss_newton.matrix() - torch.diag(case.penalty)
    assert_close_per_row(pulled(layer_of(case), plan) + torch.eye(case.p), wanted + torch.eye(case.p), TIGHT)


@pytest.mark.parametrize("size", [3, 17])
def test_every_pass_and_every_block_size_sees_the_same(size: int, monkeypatch: pytest.MonkeyPatch):
    layers, plan = layer_of(BY_NAME["softmax weights float32"]), SidesPlan(None, 0, torch.float32)
    whole = pulled(layers, plan)
    monkeypatch.setattr(one_layer, "ROWS", size)
    assert_close_per_row(pulled(layers, plan), whole, 1e-5)
    monkeypatch.undo()
    assert torch.equal(pulled(layers, plan), whole)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ["softmax", "logistic one against the rest"])
def test_random_combinations_are_right_in_expectation(name: str, seed: int):
    layers = layer_of(BY_NAME[name])
    exact = pulled(layers, SidesPlan(None, 0, torch.float64))
    errors = [
        float((pulled(layers, SidesPlan(samples, seed, torch.float64)) - exact).norm() / exact.norm())
        for samples in (4, 400)
    ]
    assert errors[1] < 0.05
    assert errors[1] < errors[0]
    one = SidesPlan(1, seed, torch.float64)
    assert torch.equal(pulled(layers, one), pulled(layers, one)), "two passes see the same combinations"
    assert not torch.equal(pulled(layers, one), pulled(layers, SidesPlan(1, seed + 1, torch.float64)))


def test_examples_of_weight_zero_have_finite_cotangents():
    problem = BY_NAME["softmax"].elsewhere
    weights = torch.ones(problem.n).double()
    weights[::2] = 0
    layers = problem.changed(weights=weights).layers
    assert layers is not None
    found = pulled(layers, SidesPlan(None, 0, torch.float64))
    half = problem.subset(torch.arange(1, problem.n, 2)).gauss_newton.matrix() - torch.diag(problem.l2)
    assert_close_per_row(found, half / 2, TIGHT)


def test_closed_forms_have_no_blocks_to_make_smaller():
    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("no room")

    layers = layer_of(BY_NAME["softmax"])
    assert layers.patiently(lambda: 5) == 5
    with pytest.raises(torch.OutOfMemoryError):
        layers.patiently(out_of_memory)
