"""Self-influence: every way to it against a solve per example written out, and its estimates within their errors."""

from typing import Any

import pytest
import torch
from torch.autograd.functional import jacobian

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    LiSSA,
    Problem,
    Softmax,
)
from upweight.curvature.base import Curvature
from upweight.influence import self_influence
from upweight.objective import Objective

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)


def naive_self(case: Case) -> torch.Tensor:
    H = case.hessian(case.problem.theta)
    bare = jacobian(lambda t: case.losses(t, case.dense, case.y), case.problem.theta)
    trained = jacobian(case.train_objective, case.problem.theta)
    return -torch.stack([b @ torch.linalg.solve(H, g) for b, g in zip(bare, trained, strict=True)])


def written_out(curvature: Curvature) -> torch.Tensor:
    return curvature.operator()(torch.eye(curvature.p, dtype=torch.float64))


def by_the_matrix(problem: Objective, curvature: Curvature) -> torch.Tensor:
    """(1, n): -g^T A^-1 (w g + folded penalty), the matrix written out."""
    everything = torch.arange(problem.n)
    bare = problem.test_gradients(problem.train_batch(everything)).double()
    trained = problem.train_gradients(everything).double()
    return -(bare * torch.linalg.solve(written_out(curvature), trained.T).T).sum(1)[None]


def solved_penalty(influence: Influence) -> torch.Tensor:
    return influence.solve(influence.problem.folded_penalty[None]).value


@every_case
def test_on_self_against_a_solve_per_example(case: Case):
    naive = naive_self(case)[:, None]
    for solver in (None, ConjugateGradient(rtol=1e-12, max_steps=2000)):
        for block in (7, 1024):
            found = Influence(case.problem, solver=solver).on_self(block=block)
            assert_close_per_row(found.values.T, naive, 1e-7)
    on_loss = Influence(case.problem).on_loss((case.X, case.y))
    assert_close_per_row(on_loss.values.diagonal()[:, None], naive, 1e-7)


@pytest.mark.parametrize("keep", ["mean", "total"])
@pytest.mark.parametrize("name", ["mlp", "twice", "sequence", "patch", "words"])
def test_self_influence_layer_by_layer_is_that_of_the_matrix(name: str, keep: str):
    problem = problem_of(name, keep=keep, batch_size=7)
    curvature = EKFAC(problem, 1e-3)
    influence = Influence(problem, curvature=curvature, solver=Exact())
    closed = self_influence.closed_form(problem, curvature, influence.inverse, solved_penalty(influence))
    assert closed is not None
    found = self_influence.scores_of(problem, closed)
    assert_close_per_row(found.T, by_the_matrix(problem, curvature).T, 1e-7)
    assert_close_per_row(influence.on_self().values, found, 1e-12)


@pytest.mark.parametrize(
    "name", ["logistic n < p intercept", "logistic n < p penalised", "squared two outputs sparse n < p"]
)
def test_all_leverages_at_once_are_for_one_output_on_the_dual_side(name: str):
    problem = BY_NAME[name].problem
    influence = Influence(problem, solver=Exact())
    closed = self_influence.closed_form(
        problem, influence.settings.curvature, influence.inverse, solved_penalty(influence)
    )
    if problem.c > 1:
        assert closed is None
        return
    assert closed is not None
    found = self_influence.scores_of(problem, closed)
    assert_close_per_row(found.T, naive_self(BY_NAME[name])[:, None], 1e-7)


@pytest.mark.parametrize("case", [BY_NAME["logistic"], BY_NAME["softmax"]], ids=case_id)
def test_there_is_no_closed_form_without_a_dual_factor_or_an_exact_inverse(case: Case):
    problem = case.problem
    for influence in (Influence(problem), Influence(problem, solver=ConjugateGradient(rtol=1e-10))):
        penalty = solved_penalty(influence)
        asked = problem, influence.settings.curvature, influence.inverse, penalty
        assert self_influence.closed_form(*asked) is None
    dense = Dense(Hessian(problem).matrix())
    other = Influence(problem, curvature=dense)
    assert self_influence.closed_form(problem, dense, other.inverse, solved_penalty(other)) is None
    assert_close_per_row(other.on_self().values.T, naive_self(case)[:, None], 1e-7)


def test_on_self_with_lissa_where_the_total_penalty_is_kept():
    case = BY_NAME["logistic"]
    found = Influence(
        case.problem, curvature=Hessian(case.problem, 0.1), solver=LiSSA(depth=300, repeats=10, batch=8)
    ).on_self()
    exact = Influence(case.problem, curvature=Hessian(case.problem, 0.1)).on_self()
    assert_close_per_row(found.values, exact.values, 0.3)


def made_up(seed: int, **settings: Any) -> tuple[Problem, LinearProblem]:
    """A network and a linear model of 40 weighted examples."""
    torch.manual_seed(seed)
    X, y = torch.randn(40, 3).double(), torch.randint(0, 3, (40,))
    settings = {"l2": 0.01, "weights": torch.rand(40).double() + 0.5, **settings}
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3)).double()
    network = Problem(model, torch.nn.functional.cross_entropy, (X, y), **settings)
    return network, LinearProblem.fit(X, y, loss=Softmax(), outputs=3, **settings)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_self_influence_is_right_within_its_error(seed):
    network, linear = made_up(seed)
    for problem in (network, linear):
        curvature = GaussNewton(problem, 0.02)
        exact = Influence(problem, curvature=curvature, solver=Exact()).on_self()
        solver = ConjugateGradient(rtol=1e-9)
        found = Influence(problem, curvature=curvature, solver=solver).on_self(samples=400, seed=seed)
        # 40 correlated estimates with a standard error of 7 % each.
        gap = (found.values / exact.values - 1)[0]
        assert float(gap.square().mean().sqrt()) < 0.14
        assert float(gap.abs().max()) < 0.35
        assert abs(float(gap.mean())) < 0.1
        assert "7%" in " ".join(found.provenance["settings"])
    with pytest.raises(TypeError, match="no root"):
        Influence(network, curvature=Hessian(network, 5.0)).on_self(samples=10)
    with pytest.raises(ValueError, match="samples must be >= 2"):
        Influence(linear, curvature=GaussNewton(linear)).on_self(samples=1)
    with pytest.raises(TypeError, match="samples is for GaussNewton, not EKFAC"):
        Influence(network, curvature=EKFAC(network, 0.1)).on_self(samples=10)


@pytest.mark.parametrize("keep", ["mean", "total"])
def test_draws_whose_sum_of_squares_is_the_inverse_give_the_exact_answer(keep: str):
    """by_draws has nothing random in it: with A^-1 = (1/k) sum s s^T it is exact, for examples of weight 0 too."""
    weights = torch.rand(40, generator=torch.Generator().manual_seed(3)).double() + 0.5
    weights[[2, 17]] = 0.0
    for problem in made_up(0, keep=keep, weights=weights):
        curvature = GaussNewton(problem, 0.02)
        influence = Influence(problem, curvature=curvature, solver=Exact())
        values, vectors = torch.linalg.eigh(written_out(curvature))
        rows = (vectors * (problem.p / values).sqrt()).T.contiguous()
        parts = self_influence.by_draws(problem, rows, solved_penalty(influence))
        found = self_influence.scores_of(problem, parts)
        assert_close_per_row(found.T, by_the_matrix(problem, curvature).T, 1e-7)
        assert_close_per_row(influence.on_self().values, found, 1e-7)


def test_draws_are_repeated_by_their_seed_and_by_no_other():
    network, _ = made_up(0)
    curvature = GaussNewton(network, 0.02)
    first, again, other = (self_influence.draws(curvature, 5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert float((first - other).norm()) > 0.1 * float(first.norm())


def test_own_is_on_self_once():
    influence = Influence(BY_NAME["logistic"].problem)
    assert influence.own is influence.own
    assert torch.equal(influence.own.values, influence.on_self().values)
    assert influence.own.measure == "own loss"


def test_more_weight_on_an_example_lowers_its_own_loss():
    """Without a penalty in the gradients the sign is that of a quadratic form, whatever the model."""
    problem = problem_of("mlp", keep="total")
    curvature = GaussNewton(problem, 1e-4 * float(draw(1).abs()))
    assert bool((Influence(problem, curvature=curvature).on_self().values < 0).all())
