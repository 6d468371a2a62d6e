"""The plain verdict: each thing that goes wrong is named, and nothing else is."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import upweight as uw
from tests.support.cases import BY_NAME, draw
from upweight.measures import margin
from upweight.uses.trust import judge_damping, judge_solves, judge_training

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


# -- each judgement by itself ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("residual", "level"), [(None, 0), (1e-8, 0), (0.1, 0), (0.11, 1), (0.5, 1), (0.51, 2)]
)
def test_the_worst_residual_decides(residual: float | None, level: int):
    values = torch.ones(2, 3, dtype=torch.float64)
    residuals = None if residual is None else torch.tensor([0.0, residual], dtype=torch.float64)
    scores = uw.Scores(values, 3, residual=residuals, verdict="2 solves")
    found, words = judge_solves(scores)
    assert found == level
    assert words == ("solved: 2 solves" if level == 0 else "solved badly: 2 solves")


@pytest.mark.parametrize(
    ("drift", "level", "words"),
    [
        (None, 0, ""),
        ([0.5, 0.5], 0, ""),
        ([1.5, 0.0], 1, "more than 5% of the 10 largest effects"),  # one of 20 effects shown
        ([10.5, 11.5], 2, "more than 55% of the 10 largest effects"),
    ],
)
def test_the_drift_is_held_against_the_largest_effects(drift: list[float] | None, level: int, words: str):
    effects = torch.arange(1, 21, dtype=torch.float64).flip(0)  # 20 ... 1, of which 20 ... 11 are shown
    few = torch.arange(1, 11, dtype=torch.float64)
    values = -torch.stack([torch.cat([few, torch.zeros(10)]), effects]) * 20
    moved = None if drift is None else torch.tensor(drift, dtype=torch.float64)
    found, reason = judge_training(uw.Scores(values, 20, drift=moved))
    assert found == level
    assert words in reason
    assert bool(reason) == (level > 0)


@pytest.mark.parametrize(
    ("ranks", "sizes", "level", "words"),
    [
        ([0.99, 0.95], [1.2, 0.9], 0, "stable: rank correlation 0.95 or more, sizes within 1.3x"),
        ([0.99, 0.85], [1.0, 1.0], 1, "sizes hang on the damping: rank correlation 0.85 or more"),
        ([0.99, 0.99], [1.0, 1.6], 1, "sizes within 1.6x"),
        ([0.99, 0.40], [1.0, 1.0], 2, "the ranking hangs on the damping: rank correlation down to 0.40"),
        ([float("nan"), 0.99], [float("nan"), 1.0], 1, "less damping leaves negative curvature"),
        ([float("nan"), 0.40], [float("nan"), 1.0], 2, "the ranking hangs"),
        ([float("nan")] * 2, [float("nan")] * 2, 2, "no other damping gives an answer"),
    ],
)
def test_what_changes_with_the_damping_decides(
    ranks: list[float], sizes: list[float], level: int, words: str
):
    columns = {"rank correlation": ranks, "median": ranks, "size": sizes}
    found, reason = judge_damping(pd.DataFrame(columns, index=[1e-4, 1e-2]))
    assert found == level
    assert words in reason


def test_scores_are_compared_row_by_row_at_the_factors_that_were_asked_for():
    case = BY_NAME["softmax"]
    curvature = uw.Hessian(case.problem, 0.05)
    found = uw.trust(uw.Influence(case.problem, curvature=curvature), case.test, factors=(0.5, 4.0, 1.0))
    assert found.sensitivity.index.tolist() == [0.025, 0.2, 0.05]
    here = uw.Influence(case.problem, curvature=curvature).on_loss(case.test).values
    other = uw.Influence(case.problem, curvature=uw.Hessian(case.problem, 0.2)).on_loss(case.test).values
    ranks = [
        float(pd.Series(a).corr(pd.Series(b), method="spearman")) for a, b in zip(here, other, strict=True)
    ]
    assert found.sensitivity["rank correlation"].iloc[1] == pytest.approx(min(ranks), rel=1e-9)
    assert found.sensitivity["size"].iloc[2] == pytest.approx(1.0, rel=1e-12)


def test_a_plain_function_is_a_measure_here_as_elsewhere():
    case = BY_NAME["softmax"]
    found = uw.trust(uw.Influence(case.problem), case.test, measure=margin)
    assert found.level == "trust"
    assert "<p>" in found._repr_html_() or found.level in found._repr_html_()


def test_reasons_come_gravest_first():
    problem = uw.Problem(network(2), F.cross_entropy, (X, Y), l2=0.01)
    found = uw.trust(asked(problem, curvature=uw.GaussNewton(problem, 0.01)), TEST)
    assert repr(found).splitlines()[0] == found.level
    assert repr(found).splitlines()[1] == f"- {found.reasons[0]}"
    assert "not finished" in found.reasons[0]
    assert len(found.reasons) == 3
