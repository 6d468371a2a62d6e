"""The same numbers on every accelerator that this machine has, beside the CPU's."""

import copy

import pytest
import torch
from torch import nn

from tests.support.compare import assert_close_per_row
from tests.support.networks import MODELS, problem_of
from upweight import (
    EKFAC,
    Arnoldi,
    ConjugateGradient,
    Exact,
    GaussNewton,
    Hessian,
    Influence,
    LinearProblem,
    LiSSA,
    Logistic,
)
from upweight.data.user_terms import Terms
from upweight.frozen import features
from upweight.uses.attack import attack
from upweight.uses.box import Box

DEVICES = ["cuda"] if torch.cuda.is_available() else []

pytestmark = pytest.mark.skipif(not DEVICES, reason="no accelerator on this machine")

METHODS = {
    "exact": lambda problem: Influence(problem, curvature=GaussNewton(problem, 0.1), solver=Exact()),
    "cg": lambda problem: Influence(
        problem, curvature=Hessian(problem, 10.0), solver=ConjugateGradient(rtol=1e-10)
    ),
    "ekfac": lambda problem: Influence(problem, curvature=EKFAC(problem, 0.1)),
    "lissa": lambda problem: Influence(
        problem, curvature=GaussNewton(problem, 1.0), solver=LiSSA(depth=20, repeats=2, batch=4, seed=1)
    ),
    "arnoldi": lambda problem: Influence(
        problem, curvature=GaussNewton(problem, 0.1), solver=Arnoldi(rank=10)
    ),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_the_cpu(name: str, method: str, device: str):
    if (name == "branches" and method != "exact") or (name != "mlp" and method == "lissa"):
        pytest.skip("example by example: one of them shows it")
    here = problem_of(name)
    there = problem_of(name, device=device)
    assert there.device.type == device
    test = here.train_batch(torch.arange(3))
    wanted, found = (METHODS[method](problem) for problem in (here, there))
    scores = found.on_loss(test)
    rtol = 1e-3 if method == "arnoldi" else 1e-6
    assert_close_per_row(scores.values.cpu(), wanted.on_loss(test).values, rtol)
    if method in ("exact", "ekfac"):
        assert_close_per_row(found.on_self().values.cpu(), wanted.on_self().values, 1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_input_influence_and_refits_are_those_of_the_cpu(device: str):
    here = problem_of("mlp")
    there, test = problem_of("mlp", device=device), here.train_batch(torch.arange(3))
    found = METHODS["exact"](there).on_inputs(test, test)
    assert_close_per_row(found.cpu(), METHODS["exact"](here).on_inputs(test, test), 1e-8)


@pytest.mark.parametrize("device", DEVICES)
def test_an_attack_through_a_network_on_the_device(device: str):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 5), nn.Tanh()).double().eval().requires_grad_(False)
    X, y = torch.randn(40, 6).double(), torch.arange(40) % 2
    logs = []
    for place in ("cpu", device):
        trunk = copy.deepcopy(network).to(place)
        problem = LinearProblem.fit(
            features(trunk, X), y, loss=Logistic(), l2=0.01, terms=Terms(network=trunk)
        )
        right = problem.outputs(problem.prepared((X, y))[0])[:, 0] * (2 * y - 1) > 0
        target = X[right][:1], y[right][:1]
        found = attack(
            problem, X[:2], target, rows=[0, 1], box=Box.around(X[:2], 0.5), step=0.05, iterations=5
        )
        assert found.inputs.device.type == "cpu"
        logs.append(torch.tensor(found.log["loss"]))
    assert_close_per_row(logs[1][:, None], logs[0][:, None], 1e-5)
