"""The plain verdict: each thing that goes wrong is named, and nothing else is."""

import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from tests.support.cases import draw

X, Y = draw(80, 4, seed=1).float(), torch.arange(80) % 3


def network(steps: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=steps, line_search_fn="strong_wolfe")

    def objective() -> torch.Tensor:
        optimiser.zero_grad()
        penalty = sum((value.square().sum() for value in model.parameters()), torch.zeros(()))
        loss = F.cross_entropy(model(X), Y) + 0.5 * 0.01 * penalty
        loss.backward()
        return loss

    optimiser.step(objective)
    return model


def asked(problem: uw.Problem, **settings) -> uw.Influence:
    return uw.Influence(problem, **settings)


TEST = (X[:4], Y[:4])


def test_a_finished_convex_model_is_trusted():
    finished = uw.LinearProblem.fit(X, Y, loss=uw.Softmax(), outputs=3, l2=0.01)
    found = uw.trust(uw.Influence(finished), TEST)
    assert found.level == "trust"
    assert any("no damping was needed" in reason for reason in found.reasons)
    assert len(found.sensitivity) == 0


def test_unfinished_training_is_named():
    problem = uw.Problem(network(2), F.cross_entropy, (X, Y), l2=0.01)
    found = uw.trust(asked(problem, curvature=uw.GaussNewton(problem, 0.01)), TEST)
    assert found.level == "do not trust"
    assert "training is not finished" in found.reasons[0]


def test_negative_curvature_is_named():
    problem = uw.Problem(network(2), F.cross_entropy, (X, Y))
    found = uw.trust(asked(problem, curvature=uw.Hessian(problem)), TEST)
    assert found.level == "do not trust"
    assert "most negative eigenvalue" in found.reasons[0]


def test_a_noisy_solve_is_named():
    problem = uw.Problem(network(300), F.cross_entropy, (X, Y), l2=0.01)
    settings = {"curvature": uw.GaussNewton(problem, 1e-4), "solver": uw.Arnoldi(rank=2)}
    found = uw.trust(asked(problem, **settings), TEST)
    assert found.level != "trust"
    assert any("solved badly" in reason for reason in found.reasons)


def test_what_hangs_on_the_damping_is_told():
    problem = uw.Problem(network(300), F.cross_entropy, (X, Y), l2=0.01)
    curvature = uw.GaussNewton(problem, 1e-3)
    influence = asked(problem, curvature=curvature)
    found = uw.trust(influence, TEST)
    assert list(found.sensitivity.index) == [1e-4, 1e-2]
    values = influence.on_loss(TEST).values
    other = asked(problem, curvature=uw.GaussNewton(problem, 1e-2)).on_loss(TEST).values
    assert abs(found.sensitivity["size"].iloc[1] - float(other.norm() / values.norm())) < 1e-6
    # Far more damping than curvature: only the gradients' products are left, and their size falls with it.
    crude = uw.trust(asked(problem, curvature=uw.GaussNewton(problem, 10.0)), TEST)
    assert crude.level != "trust"
    assert any("hang" in reason for reason in crude.reasons)


def test_less_damping_than_the_negative_curvature_is_no_answer():
    problem = uw.Problem(network(20), F.cross_entropy, (X, Y))
    lowest = uw.Hessian(problem).spectrum()[0]
    assert lowest < 0
    found = uw.trust(asked(problem, curvature=uw.Hessian(problem, -2 * lowest)), TEST)
    assert found.sensitivity["size"].isna().tolist() == [True, False]
    assert found.level != "trust"
    assert "Scores at other dampings" in repr(found)


def test_every_approximation_can_be_damped_otherwise():
    problem = uw.Problem(network(5), F.cross_entropy, (X, Y), l2=0.01)
    for curvature in (
        uw.EKFAC(problem, 0.1, samples=2),
        uw.Nystrom(uw.GaussNewton(problem, 0.1), rank=5),
        uw.Dense(torch.eye(3), 0.1),
    ):
        other = curvature.damped(0.7)
        assert other.damping == 0.7
        assert curvature.damping == 0.1
        assert type(other) is type(curvature)
