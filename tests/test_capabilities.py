"""What the capabilities of both kinds of problems promise: every form of one matrix, and gradients in small factors."""

from typing import Any

import pytest
import torch

import upweight as uw
from tests.support.cases import BY_NAME, draw
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight.capabilities import SidesPlan
from upweight.linalg.rows import as_rows
from upweight.objective import Objective

PROBLEMS: dict[str, Any] = {
    "softmax": lambda: BY_NAME["softmax weights float32"].elsewhere,
    "logistic": lambda: BY_NAME["logistic sparse intercept weights"].elsewhere,
    "n < p": lambda: BY_NAME["softmax n < p"].elsewhere,
    "mlp": lambda: problem_of("mlp"),
    "sequence": lambda: problem_of("sequence"),
}
every_problem = pytest.mark.parametrize("name", PROBLEMS)
every_matrix = pytest.mark.parametrize("matrix", ["hessian", "gauss_newton"])


def made(name: str) -> Objective:
    return PROBLEMS[name]()


@every_problem
@every_matrix
def test_the_matrix_is_that_of_its_products(name: str, matrix: str):
    second = getattr(made(name), matrix)
    A = second.matrix()
    rows = draw(3, len(A), seed=1)
    assert_close_per_row(second.product()(rows), rows @ A, 1e-9)
    assert_close_per_row(A, A.T, 1e-9)


@every_problem
@every_matrix
def test_the_mean_over_all_samples_of_one_example_is_the_product(name: str, matrix: str):
    """Every example drawn once: what LiSSA sees in the mean."""
    problem = made(name)
    second = getattr(problem, matrix)
    row = draw(1, problem.p, seed=2).expand(problem.n, -1).contiguous()
    each = second.minibatch_product(row, torch.arange(problem.n)[:, None])
    assert_close_per_row(each.mean(0)[None], second.product()(row[:1]), 1e-9)


@every_problem
@every_matrix
def test_every_row_has_its_own_sample(name: str, matrix: str):
    problem = made(name)
    second = getattr(problem, matrix)
    rows, index = draw(2, problem.p, seed=3), torch.tensor([[0, 1], [3, 0]])
    found = second.minibatch_product(rows, index)
    for i in range(2):
        assert_close_per_row(
            found[i : i + 1], second.minibatch_product(rows[i : i + 1], index[i : i + 1]), 1e-10
        )


@every_problem
def test_a_root_is_the_matrix_less_its_penalty(name: str):
    problem = made(name)
    root = problem.gauss_newton.root()
    if root is None:
        assert name != "n < p"
        return
    root = as_rows(root).dense()
    assert len(root) < problem.p
    assert_close_per_row(root.T @ root + torch.diag(problem.l2), problem.gauss_newton.matrix(), 1e-9)


@pytest.mark.parametrize("name", ["softmax", "logistic", "mlp"])
def test_samples_have_the_matrix_as_covariance(name: str):
    """Less the penalty; 4,000 draws know each number to a few percent of the matrix's size."""
    problem = made(name)
    A = problem.gauss_newton.matrix() - torch.diag(problem.l2)
    x = problem.gauss_newton.sample(4000, torch.Generator().manual_seed(0)).double()
    assert x.shape == (4000, problem.p)
    assert float((x.T @ x / 4000 - A).norm()) < 0.15 * float(A.norm())
    assert float(x.mean(0).norm()) < 0.1 * float(A.trace()) ** 0.5


@pytest.mark.parametrize("seed", range(2))
def test_samples_follow_their_generator(seed: int):
    second = made("softmax").gauss_newton
    first, again = (second.sample(3, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first, again)
    generator = torch.Generator().manual_seed(seed)
    assert not torch.equal(second.sample(3, generator), second.sample(3, generator))  # it moves on


def test_a_hessian_that_may_be_indefinite_has_no_samples():
    with pytest.raises(TypeError, match="GaussNewton"):
        made("mlp").hessian.sample(1, torch.Generator())


@every_problem
def test_facts_are_those_of_the_problem(name: str):
    problem = made(name)
    facts = problem.facts
    assert (facts.n, facts.p) == (problem.n, problem.p)
    closed = isinstance(problem, uw.LinearProblem)
    assert (facts.convex, facts.closed_form) == (closed, closed)
    assert (problem.linear is not None) == closed
    if facts.linear:
        assert_close_per_row(problem.hessian.matrix(), problem.gauss_newton.matrix(), 1e-9)


@every_problem
def test_gradients_in_small_factors_are_the_gradients(name: str):
    problem = made(name)
    layers = problem.layers
    assert layers is not None
    assert layers.together
    test = problem.train_batch(torch.arange(5))
    found = torch.cat([layers.layout.join(pairs) for pairs in layers.test_pairs(test)])
    assert_close_per_row(found, problem.test_gradients(test), 1e-8)
    rows, at = draw(2, problem.p, seed=4), 0
    for part, pairs, products in layers.train_pairs(rows, slice(2, 9)):
        bare = problem.test_gradients(problem.train_batch(torch.arange(part.start, part.stop)))
        assert_close_per_row(layers.layout.join(pairs), bare, 1e-8)
        assert_close_per_row(products, rows @ bare.T, 1e-8)
        at += part.stop - part.start
    assert at == min(9, problem.n) - 2


@every_problem
def test_the_layout_covers_theta_once(name: str):
    problem = made(name)
    layers = problem.layers
    assert layers is not None
    places = torch.cat([matrix.index for matrix in layers.layout.matrices] + [layers.layout.rest])
    assert places.sort().values.tolist() == list(range(problem.p))
    assert layers.parameters <= set(problem.layout.names)


@every_problem
def test_cotangents_pulled_back_make_the_gauss_newton_matrix(name: str):
    """sum_i w_i sum_k (left x right)(left x right)^T / n, block by block of the weight matrices."""
    problem = made(name)
    layers = problem.layers
    assert layers is not None
    G = problem.gauss_newton.matrix() - torch.diag(problem.l2)
    found = torch.zeros_like(G)
    for cotangents, w in layers.pulled_back(SidesPlan(None, 0, torch.float64), "looking"):
        for sides in cotangents:
            for i, matrix in enumerate(layers.layout.matrices):
                flat = matrix.flat((sides.left(i).mT @ sides.right(i)).double())
                found[matrix.index[:, None], matrix.index] += flat.T @ (w[:, None] * flat) / problem.n
    for matrix in layers.layout.matrices:
        block = (matrix.index[:, None], matrix.index)
        assert_close_per_row(found[block].flatten()[None], G[block].flatten()[None], 1e-8)
