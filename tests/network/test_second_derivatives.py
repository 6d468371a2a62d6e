"""The Hessian of a network's objective against the dense one, in every form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close, dense_hessian, make, rows_of
from upweight import Problem


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_the_hessian_equals_the_dense_one(kind):
    model, X, y = make(kind)
    w = torch.rand(len(X), dtype=X.dtype)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.01, weights=w, batch_size=5)
    assert problem.evaluation.strategy == "batch"
    rows = rows_of(problem, problem.p + 2)
    H = dense_hessian(problem, model, X, y, w)
    product = problem.hessian.product()
    for _ in range(2):
        close(product(rows), rows @ H, 1e-9)
    close(problem.hessian.matrix(), H, 1e-9)
    single = problem.hessian.matrix(torch.float32)
    assert single.dtype == torch.float32
    close(single.double(), H, 1e-6)


def test_a_matrix_of_whole_numbers_as_inputs():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    tokens, y = torch.tensor([[0, 1], [2, 3], [4, 4]]), torch.tensor([0, 1, 2])
    problem = Problem(model, F.cross_entropy, (tokens, y))
    close(problem.hessian.matrix(), dense_hessian(problem, model, tokens, y), 1e-9)


@pytest.mark.parametrize("name", ["hessian", "gauss_newton"])
def test_minibatch_products_of_all_examples_are_the_product(name):
    model, X, y = make()
    second = getattr(Problem(model, F.cross_entropy, (X, y), l2=0.1), name)
    rows = rows_of(Problem(model, F.cross_entropy, (X, y)))
    close(second.minibatch_product(rows, torch.arange(12).expand(3, 12)), second.product()(rows))


def test_a_hessian_has_no_samples():
    model, X, y = make()
    with pytest.raises(TypeError, match="no root: use GaussNewton"):
        Problem(model, F.cross_entropy, (X, y)).hessian.sample(2, torch.Generator())


def test_samples_have_the_covariance_of_the_gauss_newton_matrix():
    model, X, y = make(n=6)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.1)
    wanted = problem.gauss_newton.matrix() - 0.1 * torch.eye(problem.p).double()
    draws = problem.gauss_newton.sample(4000, torch.Generator().manual_seed(0))
    close(draws.T @ draws / 4000, wanted, 0.1)
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    once, again = (problem.gauss_newton.sample(5, generator) for generator in generators)
    assert torch.equal(once, again)
    concave = Problem(model, lambda o, y: -F.cross_entropy(o, y), (X, y))
    with pytest.raises(ValueError, match="not convex in the model's outputs"):
        concave.gauss_newton.sample(2, torch.Generator())


def test_other_precisions_work():
    for dtype, rtol in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        model, X, y = make("mlp", dtype=torch.float64)
        exact = Problem(model, F.cross_entropy, (X, y))
        problem = Problem(model.to(dtype), F.cross_entropy, (X.to(dtype), y))
        rows = rows_of(exact)
        found = problem.hessian.product()(rows.to(dtype))
        assert found.dtype == dtype
        close(found.double(), exact.hessian.product()(rows), rtol)
