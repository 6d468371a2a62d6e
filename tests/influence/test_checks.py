"""The assumptions: what is not deterministic, not the same on all processes, or not finished is said in words."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F

from tests.support.cases import BY_NAME, draw
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from tests.support.refits import losses_on_test
from upweight import (
    GaussNewton,
    Influence,
    InfluenceError,
    LinearProblem,
    NotDeterministicError,
    Problem,
    RankError,
    Softmax,
    measures,
)
from upweight.influence import checks


class Noisy(nn.Module):
    """Outputs that a generator of its own disturbs by `size`, in eval mode too."""

    size = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3).double()
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layer(x)
        return out + self.size * torch.randn(out.shape, generator=self.generator, dtype=out.dtype)


def noisy(size: float) -> Problem:
    """A problem whose model begins to make noise after it was looked at."""
    torch.manual_seed(0)
    model = Noisy()
    problem = Problem(model, F.cross_entropy, (draw(20, 4, seed=1), torch.arange(20) % 3), l2=0.1)
    model.size = size
    return problem


@pytest.mark.parametrize("size", [0.1, 3.0])
def test_noise_in_the_model_is_found_before_the_first_answer(size: float):
    problem = noisy(size)
    with pytest.raises(NotDeterministicError, match=r"differ by .*call model.eval\(\)"):
        checks.determinism(problem)
    with pytest.raises(NotDeterministicError, match="turn off shuffling and augmentation"):
        Influence(problem, curvature=GaussNewton(problem, 0.1)).on_loss(problem.train_batch(torch.arange(2)))


def test_rounding_is_no_noise():
    checks.determinism(noisy(1e-9))
    checks.determinism(problem_of("mlp"))


def test_a_sample_of_many_examples_is_looked_at(monkeypatch: pytest.MonkeyPatch):
    problem, asked = problem_of("mlp"), []
    subset = Problem.subset

    def counted(self: Problem, index: torch.Tensor) -> Problem:
        asked.append(index.tolist())
        return subset(self, index)

    monkeypatch.setattr(Problem, "subset", counted)
    checks.determinism(problem)
    assert asked == []
    monkeypatch.setattr(checks, "LOOKED_AT", 5)
    checks.determinism(problem)
    assert asked == [[0, 4, 9, 14, 19]]  # spread over all


def test_closed_forms_are_not_looked_at(monkeypatch: pytest.MonkeyPatch):
    problem = BY_NAME["softmax"].problem

    def gradient(self: Any) -> None:
        raise AssertionError("nobody asks")

    monkeypatch.setattr(type(problem), "gradient", gradient)
    checks.determinism(problem)


# -- several processes, of which this one hears ------------------------------------------------------------------------


def heard(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, str], places: list[str | None] | None = None
) -> None:
    """As if a second process held the same but for `change`, and both worked at these places."""

    def gathered(mine: Any) -> list[Any]:
        if isinstance(mine, dict):
            return [mine, {**mine, **change}]
        return places or [mine, mine]

    monkeypatch.setattr(checks, "ranks", lambda: 2)
    monkeypatch.setattr(checks, "gather_objects", gathered)


def test_one_process_has_nobody_to_agree_with(monkeypatch: pytest.MonkeyPatch):
    def gathered(mine: Any) -> None:
        raise AssertionError("nobody asks")

    monkeypatch.setattr(checks, "gather_objects", gathered)
    checks.agreement(problem_of("mlp"))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("n", "19 training examples"),
        ("parameters", "parameters abc in torch.float64"),
        ("data", "data and settings abc"),
    ],
)
def test_what_another_process_holds_otherwise_is_named(
    kind: str, words: str, monkeypatch: pytest.MonkeyPatch
):
    problem = problem_of("mlp")
    heard(monkeypatch, {kind: words})
    with pytest.raises(RankError, match=f"rank 1 has {words}, rank 0 has .*give every rank the same weights"):
        checks.agreement(problem)
    heard(monkeypatch, {})
    checks.agreement(problem)


def test_fewer_examples_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of("mlp").subset(torch.tensor([3]))
    heard(monkeypatch, {})
    with pytest.raises(
        RankError, match="1 training examples cannot be divided over 2 processes: start fewer"
    ):
        checks.agreement(problem)


def test_two_processes_on_one_accelerator_are_told_how_to_part(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of("mlp")
    heard(monkeypatch, {}, ["cuda:0 of here", "cuda:0 of here"])
    with pytest.raises(RankError, match=r"ranks 0 and 1 both work on cuda:0 of here: .*LOCAL_RANK"):
        checks.agreement(problem)
    for places in (["cuda:0 of here", "cuda:1 of here"], ["cuda:0 of here", "cuda:0 of there"], [None, None]):
        heard(monkeypatch, {}, list(places))
        checks.agreement(problem)


# -- the drift ---------------------------------------------------------------------------------------------------------


def test_unfinished_training_shows_as_drift():
    case = BY_NAME["squared"]
    early = case.problem.at(case.problem.theta + 0.01 * draw(case.p))
    scores = Influence(early).on_loss(case.test)
    finished = jacobian(lambda t: losses_on_test(case, t), early.theta) @ (case.problem.theta - early.theta)
    assert scores.drift is not None
    assert_close_per_row(
        scores.drift[:, None], finished[:, None], 1e-6
    )  # squared loss: one Newton step is the end
    solved = torch.linalg.solve(case.hessian(early.theta), early.test_gradients(case.test).T).T
    assert_close_per_row(checks.drift(early.gradient(), solved)[:, None], scores.drift[:, None], 1e-7)


def test_a_finished_model_drifts_by_nothing():
    case = BY_NAME["logistic"]
    scores = Influence(case.problem).on_loss(case.test)
    assert scores.drift is not None
    assert float(scores.drift.abs().max()) < 1e-8 * float(scores.effect().abs().max())


def test_a_logit_that_training_leaves_open_is_no_question():
    """Softmax without a penalty on its intercepts: a shift of all outputs changes nothing, a margin neither."""
    X = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.arange(60) % 3
    influence = Influence(LinearProblem.fit(X, y, loss=Softmax(), outputs=3, intercept=True, l2=0.1))
    with pytest.raises(
        InfluenceError, match="question 0 moves when the outputs of all classes are shifted alike"
    ):
        influence.on_loss((X[:2], y[:2]), measure=measures.logit)
    assert influence.on_loss((X[:2], y[:2]), measure=measures.margin).verdict.startswith("2 solves converged")
