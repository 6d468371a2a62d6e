"""EKFAC of networks against the dense Gauss-Newton matrix, built here from Jacobians of the whole model."""

from importlib.resources import files

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F

from tests.support.compare import assert_close_per_row
from tests.support.networks import MODELS, problem_of
from upweight import (
    EKFAC,
    ConjugateGradient,
    Exact,
    GaussNewton,
    Influence,
    LinearProblem,
    Nystrom,
    Problem,
    Softmax,
    StaleError,
)
from upweight.curvature import ekfac
from upweight.curvature.base import Curvature
from upweight.linalg.factorizations import CholeskyFactor, DiagonalFactor, Factor
from upweight.linalg.kronecker import BlocksFactor, KroneckerFactor
from upweight.linalg.lanczos import eigenvectors


def dense_gauss_newton(problem: Problem) -> torch.Tensor:
    """sum_i w_i J_i^T H_i J_i / n, one example at a time, without penalty."""
    of, total = problem.evaluation, torch.zeros(problem.p, problem.p, dtype=torch.float64)
    for i in range(problem.n):
        inputs, target = problem.train_batch(torch.tensor([i]))

        def outputs(theta, inputs=inputs):
            state = {**of.fixed, **problem.layout.unpack(theta)}
            return functional_call(of.model, state, (inputs,)).flatten()

        def loss(flat, inputs=inputs, target=target):
            return of.loss(flat.reshape(of.model(inputs).shape), target).sum()

        J, H = jacrev(outputs)(problem.theta), hessian(loss)(outputs(problem.theta))
        total = total + problem.weights[i] * J.T @ H @ J / problem.n
    return total


@pytest.mark.parametrize("keep", ["mean", "total"])
@pytest.mark.parametrize("asked", [{}, {"top": 2}, {"compress": 1e-10}])
def test_the_drift_of_a_network_is_a_newton_steps_effect(keep, asked):
    problem = problem_of("mlp", keep=keep)
    test = problem.train_batch(torch.arange(3))
    influence = Influence(problem, curvature=EKFAC(problem, 0.1))
    solved = influence.solve(problem.test_gradients(test)).value
    found = influence.on_loss(test, **asked).drift
    assert found is not None
    assert_close_per_row(found[:, None], -(solved @ problem.gradient())[:, None], 1e-8)


every_model = pytest.mark.parametrize("name", MODELS)


def eye(p: int) -> torch.Tensor:
    return torch.eye(p, dtype=torch.float64)


def parts_of(curvature: EKFAC) -> list[tuple[torch.Tensor, Factor]]:
    factor = curvature.factor()
    assert isinstance(factor, BlocksFactor)
    return factor.parts


def explicit(curvature) -> torch.Tensor:
    return curvature.operator()(eye(curvature.p))


@every_model
def test_dense_gauss_newton_is_the_sum_of_outer_products(name):
    problem = problem_of(name)
    G = dense_gauss_newton(problem)
    wanted = G + torch.diag(problem.l2) + 0.1 * eye(problem.p)
    assert_close_per_row(GaussNewton(problem, 0.1).matrix(), wanted, 1e-10)
    assert_close_per_row(explicit(GaussNewton(problem, 0.1)), wanted, 1e-10)


@every_model
def test_eigenvalues_are_the_diagonal_of_each_block_in_its_basis(name):
    problem = problem_of(name)
    G = dense_gauss_newton(problem)
    curvature = EKFAC(problem, 0.1)
    E, factor = explicit(curvature), curvature.factor()
    seen = torch.zeros(problem.p, problem.p, dtype=torch.bool)
    for index, part in parts_of(curvature):
        seen[index[:, None], index] = True
        block = G[index][:, index]
        if isinstance(part, KroneckerFactor):
            Q = part._back(torch.empty(len(index), 0), eye(len(index)).view(-1, *part.values.shape))
            values = (Q @ block @ Q.T).diagonal() + 0.1 + 0.02
            assert_close_per_row(E[index][:, index], Q.T @ torch.diag(values) @ Q, 1e-9)
        elif isinstance(part, CholeskyFactor):
            assert_close_per_row(E[index][:, index], block + 0.12 * eye(len(index)), 1e-9)
    assert not E[~seen].any()
    rows = torch.randn(3, problem.p).double()
    assert_close_per_row(factor.solve(rows) @ E, rows, 1e-9)
    assert_close_per_row(factor.quadratic(rows), (rows * torch.linalg.solve(E, rows.T).T).sum(1), 1e-9)


@every_model
def test_every_parameter_is_covered_and_said_how(name):
    problem = problem_of(name)
    coverage = EKFAC(problem).coverage
    assert set(coverage) == set(problem.layout.names)
    by_hand = {
        "words": {"norm.weight", "norm.bias"},
        "tied": {"norm.weight", "norm.bias"},
        "patch": {"body.3.weight", "body.3.bias"},
        "signal": {"scale"},
        "loose": {"layer.weight", "layer.bias"},
        "places": {"norm.weight", "norm.bias"},
        "flat": {"norm.weight", "norm.bias"},
        "windows": {"norm.weight", "norm.bias", "batch.weight", "batch.bias"},
    }
    assert {key for key, how in coverage.items() if how == "dense"} == by_hand.get(name, set())
    assert {key for key, how in coverage.items() if how == "Kronecker"} == set(coverage) - by_hand.get(
        name, set()
    )


def test_bases_are_the_eigenvectors_of_the_two_moments():
    problem = problem_of("mlp")
    X, _ = problem.train_batch(torch.arange(problem.n))
    W1, b1, W2 = problem.params.values()
    h = torch.tanh(X @ W1.T + b1)
    index, first = parts_of(EKFAC(problem))[0]
    assert isinstance(first, KroneckerFactor)
    ones = torch.cat([X, torch.ones(len(X), 1).double()], dim=1)
    moment = (ones * problem.weights[:, None]).T @ ones
    rotated = first.right.T @ moment @ first.right
    assert_close_per_row(rotated, torch.diag(rotated.diagonal()), 1e-9)
    P = torch.softmax(h @ W2.T, dim=1)
    J = W2 * (1 - h.square())[:, None, :]
    H = torch.diag_embed(P) - P[:, :, None] * P[:, None, :]
    outer = torch.einsum("bcr,bcd,bds,b->rs", J, H, J, problem.weights)
    rotated = first.left.T @ outer @ first.left
    assert_close_per_row(rotated, torch.diag(rotated.diagonal()), 1e-9)
    assert torch.equal(index, torch.arange(25))


def test_one_linear_layer_with_squared_loss_is_exact():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    train = torch.randn(20, 4).double(), torch.randn(20, 3).double()
    problem = Problem(model, lambda out, y: (out - y).square().sum(1) / 2, train, l2=0.1)
    assert_close_per_row(explicit(EKFAC(problem)), GaussNewton(problem).matrix(), 1e-10)


@pytest.mark.parametrize("leading", [0, 3])
def test_a_linear_model_gets_the_closed_form(leading):
    problem = problem_of("mlp")
    torch.manual_seed(1)
    head = nn.Linear(4, 3).double()
    X, y = problem.train_batch(torch.arange(problem.n))
    generic = Problem(head, F.cross_entropy, (X, y), l2=0.02, weights=problem.weights)
    weight, bias = head.weight.detach(), head.bias.detach()
    linear = LinearProblem(
        X,
        y,
        weight,
        bias,
        loss=Softmax(),
        l2=0.02,
        l2_intercept=0.02,
        weights=problem.weights,
    )
    ours, closed = EKFAC(generic, leading=leading), EKFAC(linear, leading=leading)
    assert_close_per_row(explicit(ours), explicit(closed), 1e-9)


def test_leading_directions_are_kept_whole():
    """With every direction of a layer leading, its block is the Gauss-Newton block itself."""
    problem = problem_of("patch")
    G = dense_gauss_newton(problem)
    E = explicit(EKFAC(problem, 0.1, leading=1000))
    for index, _ in parts_of(EKFAC(problem)):
        wanted = G[index][:, index] + 0.12 * eye(len(index))
        assert_close_per_row(E[index][:, index], wanted, 1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_curvature_is_right_in_expectation(seed):
    problem = problem_of("mlp")
    exact, rows = explicit(EKFAC(problem)), torch.randn(2, problem.p).double()
    errors = []
    for samples in (10, 4000):
        sampled = explicit(EKFAC(problem, samples=samples, seed=seed))
        errors.append(float((sampled - exact).norm() / exact.norm()))
    assert errors[1] < 0.03
    assert errors[1] < errors[0]
    again = EKFAC(problem, samples=10, seed=seed).factor().solve(rows)
    assert torch.equal(again, EKFAC(problem, samples=10, seed=seed).factor().solve(rows))
    assert not torch.equal(again, EKFAC(problem, samples=10, seed=seed + 1).factor().solve(rows))


def test_rows_read_a_sample():
    problem = problem_of("mlp", weights=None)
    half = explicit(EKFAC(problem, rows=7))
    index = torch.linspace(0, 19, 7, dtype=torch.float64).long()
    assert_close_per_row(half, explicit(EKFAC(problem.subset(index))), 1e-10)


@every_model
def test_blocks_of_any_size_give_the_same(name):
    assert_close_per_row(
        explicit(EKFAC(problem_of(name, batch_size=3))), explicit(EKFAC(problem_of(name))), 1e-9
    )


def test_many_parameters_outside_layers_have_a_diagonal(monkeypatch):
    monkeypatch.setattr("upweight.curvature.kronecker_statistics.DENSE_REST", 3)
    problem = problem_of("patch")
    G = dense_gauss_newton(problem)
    curvature = EKFAC(problem, 0.1)
    assert curvature.coverage["body.3.bias"] == "diagonal"
    index, part = parts_of(curvature)[-1]
    assert isinstance(part, DiagonalFactor)
    assert_close_per_row(part.values, G.diagonal()[index] + 0.12, 1e-9)
    rows = torch.randn(2, problem.p).double()
    assert_close_per_row(
        curvature.factor().quadratic(rows), (rows * curvature.factor().solve(rows)).sum(1), 1e-9
    )


def test_frozen_parameters_are_none_of_its_business():
    problem = problem_of("mlp", params="2.*")
    assert EKFAC(problem).coverage == {"2.weight": "Kronecker"}
    G = dense_gauss_newton(problem)
    E = explicit(EKFAC(problem, leading=100))
    assert_close_per_row(E, G + 0.02 * eye(problem.p), 1e-9)


def test_layers_are_seen_example_by_example_where_examples_are_not_first():
    assert not problem_of("time first").layers.together
    assert not problem_of("branches").layers.together
    assert problem_of("patch").layers.together


@pytest.mark.parametrize("name", ["mlp", "patch", "tied"])
def test_single_precision(name):
    problem = problem_of(name)
    rows = torch.randn(3, problem.p)
    fast = EKFAC(problem, 0.1).factor(torch.float32).solve(rows)
    assert fast.dtype == torch.float32
    assert_close_per_row(fast, EKFAC(problem, 0.1).factor().solve(rows.double()), 1e-4)


@pytest.mark.parametrize("name", ["mlp", "patch", "tied"])
def test_another_damping_needs_no_other_look_at_the_data(name, monkeypatch):
    problem = problem_of(name)
    first = EKFAC(problem, 0.1, leading=2)
    later = first.damped(0.7)  # before anything is gathered
    rows = torch.randn(3, problem.p, dtype=torch.float64)
    wanted = [EKFAC(problem, damping, leading=2).factor().solve(rows) for damping in (0.1, 0.7, 0.02)]
    assert_close_per_row(first.factor().solve(rows), wanted[0], 1e-12)
    monkeypatch.setattr(ekfac, "gather", None)
    assert_close_per_row(later.factor().solve(rows), wanted[1], 1e-12)
    assert_close_per_row(later.damped(0.02).factor().solve(rows), wanted[2], 1e-12)


@pytest.mark.parametrize("name", ["mlp", "patch", "tied"])
def test_files_hold_what_was_gathered(name, tmp_path, monkeypatch):
    problem, path = problem_of(name), tmp_path / "curvature.safetensors"
    rows = torch.randn(3, problem.p, dtype=torch.float64)
    EKFAC(problem, 0.1, rows=15, leading=2, samples=3).save(path)
    wanted = EKFAC(problem, 0.3, rows=15, leading=2, samples=3).factor().solve(rows)
    with monkeypatch.context() as patched:
        patched.setattr(ekfac, "gather", None)
        found = EKFAC.load(path, problem, 0.3)
        assert_close_per_row(found.factor().solve(rows), wanted, 1e-12)
    assert (found.rows, found.leading, found.samples, found.damping) == (15, 2, 3, 0.3)
    with pytest.raises(StaleError, match="other weights, data or settings"):
        EKFAC.load(path, problem_of(name, n=21))
    (tmp_path / "text").write_text("left,right")
    with pytest.raises(ValueError, match="not a curvature file of upweight"):
        EKFAC.load(tmp_path / "text", problem)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name, "text"]


def test_the_model_is_as_it_was():
    problem = problem_of("patch")
    model = problem.evaluation.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    EKFAC(problem).factor()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["mlp", "patch", "signal", "words"])
def test_preconditioned_solves_are_the_exact_answer(name):
    problem = problem_of(name)
    curvature = GaussNewton(problem, 1e-3)
    rows = problem.test_gradients(problem.train_batch(torch.arange(3)))
    helped = ConjugateGradient(rtol=1e-9, preconditioner=EKFAC(problem, 1e-3)).prepare(curvature)(rows)
    assert_close_per_row(helped.value, Exact().prepare(curvature)(rows).value, 1e-6)


def digits(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    with (files("upweight") / "data" / "mnist_small.npz").open("rb") as file, np.load(file) as found:
        return torch.as_tensor(found["x_train"][:n]).double() / 255, torch.as_tensor(
            found["y_train"][:n]
        ).long()


def trained(model: nn.Module, n: int, l2: float) -> Problem:
    X, y = digits(n)
    model = model.double()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=60)

    def closure():
        optimizer.zero_grad()
        penalty = torch.stack([v.square().sum() for v in model.parameters()]).sum()
        loss = F.cross_entropy(model(X), y) + l2 / 2 * penalty
        loss.backward()
        return loss

    optimizer.step(closure)
    return Problem(model, F.cross_entropy, (X, y), l2=l2)


def steps(problem: Problem, preconditioner: Curvature | None) -> int:
    """The most that conjugate gradients on the Gauss-Newton matrix take for one of three rows, each by itself."""
    curvature = GaussNewton(problem)
    rows = problem.test_gradients(problem.train_batch(torch.arange(3)))
    inverse = ConjugateGradient(rtol=1e-6, preconditioner=preconditioner).prepare(curvature)
    found = [inverse(row[None]) for row in rows]
    values = torch.cat([solution.value for solution in found])
    assert_close_per_row(values, Exact().prepare(curvature)(rows).value, 1e-4)
    return max(int(solution.steps) for solution in found)


def test_preconditioners_where_they_pay():
    """Softmax regression: EKFAC with leading directions. A trained network: Nystrom; its layers interact too much."""
    torch.manual_seed(0)
    softmax = trained(nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 10)), 600, 1e-2)
    assert 3 * steps(softmax, EKFAC(softmax, leading=64)) <= steps(softmax, None)
    body = nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(196, 12), nn.Tanh(), nn.Linear(12, 10))
    network = trained(body, 600, 1e-3)
    assert 3 * steps(network, Nystrom(GaussNewton(network), rank=200)) <= steps(network, None)


def test_influence_by_its_closed_inverse():
    problem = problem_of("mlp")
    influence = Influence(problem, curvature=EKFAC(problem, 0.1), solver=Exact())
    E = explicit(EKFAC(problem, 0.1))
    train = problem.train_gradients(torch.arange(problem.n))
    test = problem.train_batch(torch.arange(4))
    wanted = -problem.test_gradients(test) @ torch.linalg.solve(E, train.T)
    assert_close_per_row(influence.on_loss(test).values, wanted, 1e-8)
    bare = problem.test_gradients(problem.train_batch(torch.arange(problem.n)))
    assert_close_per_row(
        influence.on_self().values[0], -(bare * torch.linalg.solve(E, train.T).T).sum(1), 1e-8
    )


def test_a_loss_that_is_not_convex_in_the_outputs_is_refused():
    problem = problem_of("mlp", loss=lambda out, y: -F.cross_entropy(out, y))
    with pytest.raises(ValueError, match=r"not convex in the model's outputs.*use Hessian"):
        EKFAC(problem).factor()


@pytest.mark.parametrize(
    "settings", [{"rows": 0}, {"leading": -1}, {"samples": 0}, {"damping": -1.0}, {"damping": float("nan")}]
)
def test_bad_settings(settings):
    with pytest.raises(ValueError, match=r">= (0|1)"):
        EKFAC(problem_of("mlp"), **settings)


@pytest.mark.parametrize("raises", [True, False])
def test_eigenvectors_where_single_precision_fails(raises, monkeypatch):
    X = torch.randn(5, 8)
    matrix, eigh = X.T @ X, torch.linalg.eigh

    def fails(A):
        if A.dtype == torch.float32 and raises:
            raise RuntimeError("did not converge")
        values, vectors = eigh(A)
        return values, vectors * (torch.nan if A.dtype == torch.float32 else 1.0)

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    Q = eigenvectors(matrix)
    assert Q.dtype == torch.float32
    D = Q.T @ matrix @ Q
    assert float((D - torch.diag(D.diagonal())).norm()) < 1e-4 * float(D.norm())
