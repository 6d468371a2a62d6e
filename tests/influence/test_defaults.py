"""What is chosen for whom, and that it answers as a factorised matrix does."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import BY_NAME
from tests.support.compare import assert_close_per_row
from upweight import (
    EKFAC,
    ConjugateGradient,
    Dense,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    Nystrom,
    Problem,
    Softmax,
)
from upweight.influence.defaults import Settings, choose_curvature, choose_solver, chosen


class Product(nn.Module):
    """Outputs that are a product of two parameters."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.tensor(0.7)), nn.Parameter(torch.randn(4, 3))

    def forward(self, x):
        return x @ self.b * self.a


def problem_of(model: nn.Module, loss: Any = F.cross_entropy, **settings) -> Problem:
    torch.manual_seed(1)
    data = torch.randn(40, 4).double(), torch.randint(0, 3, (40,))
    return Problem(model.double(), loss, data, **{"l2": 0.01, **settings})


def network(width: int = 6) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 3))


LINEAR: dict[str, tuple[Callable[[], nn.Module], dict[str, Any], bool]] = {
    "linear": (lambda: nn.Linear(4, 3), {}, True),
    "features": (network, {"params": "2.*"}, True),
    "network": (network, {}, False),
    "rectified": (lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU()), {}, False),
    "product": (Product, {}, False),
    "not convex": (lambda: nn.Linear(4, 3), {"loss": lambda out, y: -F.cross_entropy(out, y)}, False),
}


@pytest.mark.parametrize("name", LINEAR)
def test_models_linear_in_their_parameters_are_found(name: str):
    torch.manual_seed(0)
    make, settings, linear = LINEAR[name]
    for dtype in (torch.float64, torch.float32):
        problem = problem_of(make(), **settings)
        if dtype == torch.float32:
            rows = problem.train_batch(torch.arange(40))
            loss = settings.get("loss", F.cross_entropy)
            model = problem.evaluation.model.float()
            problem = Problem(model, loss, (rows[0].float(), rows[1]), l2=0.01, params=settings.get("params"))
        assert problem.facts.linear is linear


def test_a_linear_model_gets_its_hessian_without_a_look_at_the_spectrum():
    problem = problem_of(nn.Linear(4, 3))
    curvature, reason = choose_curvature(problem)
    assert isinstance(curvature, GaussNewton)
    assert "linear in the parameters" in reason
    assert_close_per_row(curvature.matrix(), Hessian(problem).matrix(), 1e-9)


def test_negative_curvature_is_cured():
    curvature, reason = choose_curvature(problem_of(network(), l2=0.0))
    assert isinstance(curvature, Hessian)
    assert curvature.damping > 0
    assert "most negative eigenvalue" in reason
    assert float(torch.linalg.eigvalsh(curvature.matrix())[0]) > 0


def test_small_ones_are_factorised(monkeypatch: pytest.MonkeyPatch):
    problem = problem_of(network())
    monkeypatch.setattr("upweight.influence.defaults.DIRECT", 8)
    assert isinstance(choose_solver(problem, GaussNewton(problem, 0.1))[0], Exact)
    assert isinstance(choose_solver(problem, Hessian(problem, 0.1))[0], ConjugateGradient)
    monkeypatch.setattr("upweight.influence.defaults.DENSE_WORK", 10)
    assert isinstance(choose_solver(problem, GaussNewton(problem, 0.1))[0], ConjugateGradient)


def test_the_hessian_of_a_small_network_is_preconditioned_by_a_factorised_gauss_newton_matrix(monkeypatch):
    monkeypatch.setattr("upweight.influence.defaults.DIRECT", 8)
    problem = problem_of(network())
    lowest = Hessian(problem).spectrum()[0]
    curvature = Hessian(problem, 0.05 - min(lowest, 0.0))
    influence = Influence(problem, curvature=curvature)
    solver = influence.settings.solver
    assert isinstance(solver, ConjugateGradient)
    assert isinstance(solver.preconditioner, GaussNewton)
    assert "preconditioned by the GaussNewton matrix of 40 rows" in choose_solver(problem, curvature)[1]
    test = problem.train_batch(torch.arange(5))
    wanted = Influence(problem, curvature=curvature, solver=Exact()).on_loss(test).values
    assert_close_per_row(influence.on_loss(test).values, wanted, 1e-4)


def test_closed_inverses_are_used():
    problem = problem_of(network())
    for curvature in (EKFAC(problem, 0.1), Nystrom(GaussNewton(problem, 0.1), rank=5), Dense(torch.eye(3))):
        solver, reason = choose_solver(problem, curvature)
        assert isinstance(solver, Exact)
        assert type(curvature).__name__ in reason


@pytest.mark.parametrize(
    ("name", "closed"), [("linear", EKFAC), ("network", Nystrom), ("closed form", EKFAC)]
)
def test_the_preconditioner_suits_the_model_and_the_answer_is_that_of_a_factorisation(
    name: str, closed: type, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("upweight.influence.defaults.DIRECT", 3)
    monkeypatch.setattr("upweight.influence.defaults.DENSE", 3)
    problem: Any = problem_of(nn.Linear(4, 3) if name == "linear" else network())
    test = problem.train_batch(torch.arange(3))
    if name == "closed form":
        problem = LinearProblem.fit(*problem.train_batch(torch.arange(40)), loss=Softmax(), outputs=3, l2=0.1)
    curvature = GaussNewton(problem, 0.05)
    influence = Influence(problem, curvature=curvature)
    solver = influence.settings.solver
    assert isinstance(solver, ConjugateGradient)
    preconditioner: Any = solver.preconditioner
    assert isinstance(preconditioner, (EKFAC, Nystrom))
    assert type(preconditioner) is closed
    assert preconditioner.damping == 0.05
    wanted = Influence(problem, curvature=curvature, solver=Exact()).on_loss(test).values
    assert_close_per_row(influence.on_loss(test).values, wanted, 1e-4)


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_say_what_and_why():
    problem = BY_NAME["softmax"].problem
    words = str(Influence(problem).settings)
    assert "Hessian without damping, since the objective is convex" in words
    assert "Exact, one factorisation of 12 rows" in words
    asked = Influence(problem, curvature=Hessian(problem, 0.1), solver=ConjugateGradient())
    assert str(asked.settings).count("as given") == 2


def test_what_was_given_is_taken_and_what_was_not_is_chosen():
    problem = BY_NAME["softmax"].problem
    curvature, solver = Hessian(problem, 0.1), ConjugateGradient(rtol=1e-8)
    for given in ((curvature, None), (None, solver), (curvature, solver)):
        found = chosen(problem, *given)
        assert given[0] is None or found.curvature is given[0]
        assert given[1] is None or found.solver is given[1]
        assert [reason.endswith("as given") for reason in found.reasons] == [
            part is not None for part in given
        ]


def test_remarks_of_the_problem_stand_among_the_settings(monkeypatch: pytest.MonkeyPatch):
    problem = BY_NAME["softmax"].problem
    monkeypatch.setattr(type(problem), "remarks", ("it was a dark night",))
    assert str(chosen(problem, None, None)).splitlines()[-1] == "it was a dark night"


@pytest.mark.parametrize(
    "other",
    [
        {"solver": ConjugateGradient(rtol=1e-7)},
        {"solver": Exact()},
        {"curvature": 0.2},
        {"solver": ConjugateGradient(rtol=1e-6), "helper": 0.1},
    ],
    ids=str,
)
def test_the_identity_of_settings_tells_answers_apart(other: dict[str, Any]):
    problem = BY_NAME["softmax"].problem

    def identity(curvature: float = 0.1, solver: Any = None, helper: float | None = None) -> str:
        solver = solver or ConjugateGradient(rtol=1e-6)
        if helper is not None:
            solver = replace(solver, preconditioner=EKFAC(problem, helper))
        return Settings(Hessian(problem, curvature), solver, ()).identity

    assert identity() == identity()
    assert identity(**other) == identity(**other)
    assert identity(**other) != identity()
    assert " at 0x" not in identity(**other)


# -- what cannot be formed ---------------------------------------------------------------------------------------------


def test_a_matrix_too_large_to_be_formed_is_solved_by_conjugate_gradients(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("upweight.influence.defaults.DENSE", 2)
    solver, reason = choose_solver(problem_of(network()), Dense(torch.eye(3)))
    assert solver == ConjugateGradient(rtol=1e-5)
    assert reason.endswith("p = 3")


@pytest.mark.parametrize(("rows", "whole"), [(1, False), (10**9, True)])
def test_a_wide_linear_model_is_preconditioned_by_some_of_its_rows(
    rows: int, whole: bool, monkeypatch: pytest.MonkeyPatch
):
    case = BY_NAME["softmax total intercept"]
    for name, value in {"DIRECT": 3, "WIDEST": 2, "ROOT": 1, "DENSE_WORK": rows}.items():
        monkeypatch.setattr(f"upweight.influence.defaults.{name}", value)
    curvature = Hessian(case.problem, 1e-3)
    solver, reason = choose_solver(case.problem, curvature)
    assert isinstance(solver, ConjugateGradient)
    assert isinstance(solver.preconditioner, Hessian if whole else Nystrom)
    assert ("directions (Nystrom)" in reason) is not whole
    assert "the Hessian matrix of 40 rows, since p = 15" in reason
    found, wanted = (Influence(case.problem, curvature=curvature, solver=s) for s in (solver, Exact()))
    assert_close_per_row(found.on_loss(case.test).values, wanted.on_loss(case.test).values, 1e-4)


def test_a_wide_model_with_few_rows_is_factorised_on_that_side(monkeypatch: pytest.MonkeyPatch):
    problem = BY_NAME["logistic n < p intercept"].problem
    for name, value in {"DIRECT": 3, "WIDEST": 2}.items():
        monkeypatch.setattr(f"upweight.influence.defaults.{name}", value)
    solver, reason = choose_solver(problem, Hessian(problem))
    assert isinstance(solver, Exact)
    assert reason == "solver: Exact, one factorisation of 12 rows"
