"""The streamed pass against products one by one, and its compressed form within the error that it states."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from tests.support.cases import BY_NAME, CASES, Case, case_id, draw, make
from tests.support.compare import assert_close_per_row
from tests.support.networks import problem_of
from upweight import EKFAC, Exact, Hessian, Influence, Logistic, Overall, Problem, StaleError
from upweight.influence import passes
from upweight.influence.passes import Answer, all_columns, compressed, streamed
from upweight.objective import Objective

every_case = pytest.mark.parametrize("case", CASES, ids=case_id)
NETWORKS = ("mlp", "signal", "tied")


def answer(problem: Objective, m: int = 3, drift: torch.Tensor | None = None) -> Answer:
    """Right-hand sides as they come, solved by nobody."""
    rows = draw(m, problem.p, seed=8)
    return Answer(rows, drift, torch.zeros(m, dtype=torch.float64), "as they come")


def one_by_one(problem: Objective, rows: torch.Tensor) -> torch.Tensor:
    """The scores from the gradient of one training example after the other."""
    gradients = [problem.train_gradients(torch.tensor([i]))[0] for i in range(problem.n)]
    return torch.stack([rows @ gradient for gradient in gradients], dim=1)


@every_case
def test_the_pass_over_a_linear_model_gives_products_one_by_one(case: Case):
    asked = answer(case.elsewhere)
    found = streamed(case.elsewhere, asked)
    assert_close_per_row(found.values, one_by_one(case.elsewhere, asked.rows), 1e-10)  # type: ignore[arg-type]
    assert found.columns is None


@pytest.mark.parametrize("keep", ["mean", "total"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_pass_over_a_network_gives_products_one_by_one(name: str, keep: str):
    problem = problem_of(name, keep=keep, batch_size=7)
    asked = answer(problem)
    found = streamed(problem, asked)
    assert_close_per_row(found.values, one_by_one(problem, asked.rows), 1e-10)  # type: ignore[arg-type]
    # Not at an optimum: the scores tell what is left of the gradient, the penalty's part included.
    assert_close_per_row(found.drift[:, None], (asked.rows @ problem.gradient())[:, None], 1e-10)


@every_case
def test_the_drift_that_scores_tell_is_that_of_the_gradient(case: Case):
    problem = case.elsewhere
    asked = answer(problem)
    told = streamed(problem, asked).drift
    assert_close_per_row(told[:, None], (asked.rows @ problem.gradient())[:, None], 1e-9)
    known = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(streamed(problem, answer(problem, drift=known)).drift, known)
    # The strongest are chosen as the parts pass by, all of which count.
    assert_close_per_row(streamed(problem, asked, top=2).drift[:, None], told[:, None], 1e-12)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), m=st.integers(1, 3))
def test_columns_are_put_together_at_their_places(sizes: list[int], m: int):
    whole = draw(m, sum(sizes)).float()
    edges = torch.tensor([0, *sizes]).cumsum(0).tolist()
    parts = [(slice(a, b), whole[:, a:b]) for a, b in itertools.pairwise(edges)]
    found = all_columns(parts, m, sum(sizes))
    assert found.dtype == torch.float64
    assert torch.equal(found, whole.double())


@every_case
def test_top_equals_a_sort_of_the_full_matrix(case: Case):
    influence = Influence(case.problem)
    full = influence.on_loss(case.test).values
    for top in (1, 3, case.n):
        scores = influence.on_loss(case.test, top=top)
        ordered, columns = full.sort(dim=1, stable=True)
        keep = list(range(min(top, case.n))) + list(range(max(top, case.n - top), case.n))
        assert scores.columns is not None
        assert torch.equal(scores.columns, columns[:, keep])
        assert_close_per_row(scores.values, ordered[:, keep], 1e-12)


def test_top_over_several_blocks_and_through_the_tables():
    case = make("long", Logistic(), n=700, d=2)
    influence = Influence(case.problem)
    full, kept = influence.on_loss(case.test), influence.on_loss(case.test, top=4)
    for i in range(5):  # each test row has its own top
        for table in ("helpful", "harmful", "top"):
            wanted, found = getattr(full[i], table)(4), getattr(kept[i], table)(4)
            assert wanted.index.tolist() == found.index.tolist()
            assert_close_per_row(found.to_numpy(), wanted.to_numpy(), 1e-10)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-8])
@pytest.mark.parametrize("name", ["mlp", "sequence"])
def test_a_compressed_answer_is_within_the_error_that_it_states(name: str, tolerance: float):
    problem = problem_of(name)
    curvature = EKFAC(problem, 1e-3)
    test = problem.train_batch(torch.arange(8))
    A = curvature.operator()(torch.eye(problem.p, dtype=torch.float64))
    wanted = -torch.linalg.solve(A, problem.test_gradients(test).T).T
    found = compressed(problem, curvature, test, None, tolerance)
    assert found.drift is None
    assert float(found.residual.max()) <= tolerance
    columns = [found.rows.to(problem.theta) @ unit for unit in torch.eye(problem.p, dtype=torch.float64)]
    gap = torch.stack(columns, dim=1) - wanted
    error = ((gap @ A) * gap).sum(1).clamp(min=0).sqrt() / ((wanted @ A) * wanted).sum(1).sqrt()
    assert bool((error <= 1.01 * found.residual + 1e-9).all())
    scores = streamed(problem, found)
    exact = Influence(problem, curvature=curvature, solver=Exact()).on_loss(test)
    assert_close_per_row(scores.values, exact.values, max(3 * tolerance, 1e-6))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every question counts as a large one."""
    monkeypatch.setattr(passes, "LARGE", 0)
    monkeypatch.setattr(passes, "SEVERAL", 0)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("damping", [0.1, 0.01])
def test_many_questions_to_ekfac_are_compressed_without_being_asked(damping: float):
    torch.manual_seed(0)
    X, y = torch.randn(60, 40).double() / 40**0.5, torch.randint(10, (60,))
    model = nn.Sequential(nn.Linear(40, 30), nn.Tanh(), nn.Linear(30, 10)).double()
    problem = Problem(model, F.cross_entropy, (X, y), l2=1e-3)
    curvature, test = EKFAC(problem, damping), problem.train_batch(torch.arange(8))
    plain = Influence(problem, curvature=curvature).on_loss(test)
    exact = Influence(problem, curvature=curvature, solver=Exact()).on_loss(test)
    assert "compressed" in plain.verdict
    assert "compressed" not in exact.verdict
    assert plain.residual is not None
    assert 0 < float(plain.residual.max()) <= 1e-3
    assert_close_per_row(plain.values, exact.values, 3e-3)
    assert_close_per_row(plain.drift, exact.drift, 1e-2)  # one number, much of which cancels


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("name", "settings", "measure"),
    [
        ("sequence", {"damping": 0.1}, None),  # several positions: little would be gained
        ("branches", {"damping": 0.1}, None),  # no gradients by layers
        ("mlp", {"damping": 0.1, "leading": 2}, None),
        ("mlp", {"damping": 1e-9}, None),  # as many outer products as the layers are wide
        ("mlp", {"damping": 0.1}, Overall(lambda out, y: out.mean())),
    ],
)
def test_others_are_written_out_to_all_digits(name: str, settings: dict[str, Any], measure: Any):
    problem = problem_of(name)
    curvature, test = EKFAC(problem, **settings), problem.train_batch(torch.arange(8))
    plain = Influence(problem, curvature=curvature).on_loss(test, measure=measure)
    exact = Influence(problem, curvature=curvature, solver=Exact()).on_loss(test, measure=measure)
    assert torch.equal(plain.values, exact.values)


def test_what_cannot_be_compressed_is_refused():
    problem, case = problem_of("mlp"), BY_NAME["softmax"]
    test = problem.train_batch(torch.arange(2))
    words = "compress is for EKFAC and measures of single examples"
    with pytest.raises(TypeError, match=words):
        compressed(case.problem, Hessian(case.problem), case.test, None, 0.1)
    with pytest.raises(TypeError, match=words):
        compressed(problem, EKFAC(problem, 0.1), test, Overall(lambda out, y: out.mean()), 0.1)


def test_a_compressed_answer_is_not_given_for_data_that_moved():
    problem = problem_of("mlp")
    curvature, test = EKFAC(problem, 0.1), problem.train_batch(torch.arange(2))
    next(problem.evaluation.model.parameters()).data.add_(1.0)
    with pytest.raises(StaleError):
        compressed(problem, curvature, test, None, 0.1)
