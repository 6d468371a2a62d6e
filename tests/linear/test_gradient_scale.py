"""When a gradient is small: against gradients of single examples written out, and in any units."""

import pytest
import torch

from tests.support.cases import CASES, Case, case_id, draw
from upweight import LinearProblem, Logistic, Squared
from upweight.linear.diagnostics import distance
from upweight.linear.gradient_scale import AIM, GradientScale
from upweight.losses import LinearLoss


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_share_of_one_example(case: Case):
    """Gradients without penalty one by one, each entry by the root of the explicit Hessian's diagonal."""
    problem = case.elsewhere
    H = problem.hessian.matrix()
    bare = case.w[:, None] * problem.test_gradients(problem.train_batch(torch.arange(case.n))) / case.n
    one = (bare.square() / H.diagonal()).sum(1).mean().sqrt()
    gradients = torch.stack([problem.gradient(), draw(case.p)])
    wanted = (gradients.square() / H.diagonal()).sum(1).sqrt() / one
    assert torch.allclose(GradientScale.of(problem).share(gradients), wanted, rtol=1e-9)


@pytest.mark.parametrize("case", CASES, ids=case_id)
def test_the_distance_from_the_optimum_is_the_newton_decrement(case: Case):
    problem = case.elsewhere
    H = torch.linalg.pinv(problem.hessian.matrix(), hermitian=True)
    bare = case.w[:, None] * problem.test_gradients(problem.train_batch(torch.arange(case.n))) / case.n
    one = ((bare @ H) * bare).sum(1).mean().sqrt()
    g = problem.gradient()
    assert distance(problem) == pytest.approx(float((g @ H @ g).sqrt() / one), rel=1e-5)
    assert distance(case.problem) < 1e-6


def in_units(unit: float, of_targets: float, loss: LinearLoss, **options) -> LinearProblem:
    """A model far from its optimum, its second column and its targets in other units."""
    X, y = draw(40, 3), draw(40, seed=1)
    X[:, 1] += X[:, 0]
    X[:, 1] *= unit
    theta = torch.tensor([0.3, -0.2 / unit, 0.5]).double() * of_targets
    targets = (y > 0).long() if isinstance(loss, Logistic) else y * of_targets
    return LinearProblem(X, targets, theta, loss=loss, **options)


@pytest.mark.parametrize(
    ("unit", "of_targets"), [(1e6, 1.0), (1e-6, 1.0), (1.0, 1e8), (1.0, 1e-6), (1e6, 1e6)]
)
def test_nothing_depends_on_units(unit: float, of_targets: float):
    plain, other = (in_units(*units, loss=Squared()) for units in ((1.0, 1.0), (unit, of_targets)))
    assert distance(other) == pytest.approx(distance(plain), rel=1e-6)
    shares = [float(GradientScale.of(p).share(p.gradient()[None])) for p in (plain, other)]
    assert shares[1] == pytest.approx(shares[0], rel=1e-9)
    there, wanted = other.minimised(), plain.minimised(1e-14)
    back = there.theta / of_targets * torch.tensor([1.0, unit, 1.0]).double()
    assert torch.allclose(back, wanted.theta, rtol=1e-9)
    assert float(GradientScale.of(there).share(there.gradient()[None])) <= AIM


@pytest.mark.parametrize("unit", [1e6, 1e-6])
def test_classifiers_are_trained_whatever_the_units_of_columns(unit: float):
    plain, other = (in_units(u, 1.0, loss=Logistic(), l2=0.0) for u in (1.0, unit))
    back = other.minimised().theta * torch.tensor([1.0, unit, 1.0]).double()
    assert torch.allclose(back, plain.minimised(1e-13).theta, rtol=1e-8)


def test_a_gradient_along_which_nothing_bends_is_never_small():
    X, y = torch.eye(3, 2).double(), torch.zeros(3)
    problem = LinearProblem(torch.cat([X, torch.zeros(3, 1)], 1), y, torch.ones(3), loss=Squared())
    scale = GradientScale.of(problem)
    assert scale.share(torch.tensor([[0.0, 0.0, 1e-30], [0.0, 0.0, 0.0]])).tolist() == [float("inf"), 0.0]
