"""What is put around a model, or compiled inside of it, hides nothing: the answers are the plain model's."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.support.cases import draw
from tests.support.compare import assert_close_per_row
from upweight import EKFAC, Influence, Problem, trust

X, Y = draw(60, 5), torch.arange(60) % 3
TEST = X[:4], Y[:4]


def plain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6), nn.Tanh(), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, 3)
    ).double()


def around(model: Any) -> Any:
    return torch.compile(model, backend="eager")


def inside() -> Any:
    model = plain()
    model[2] = torch.compile(model[2], backend="eager")
    return model


def in_place() -> Any:
    model = plain()
    model.compile(backend="eager")
    return model


WRAPPED = {
    "compiled": lambda: around(plain()),
    "compiled inside": inside,
    "compiled in place": in_place,
    "data parallel": lambda: nn.DataParallel(plain()),
    "twice": lambda: nn.DataParallel(around(plain())),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_layers_are_seen_through_what_is_around_them(kind):
    model, wanted = WRAPPED[kind](), Problem(plain(), F.cross_entropy, (X, Y), l2=0.1)
    found = Problem(model, F.cross_entropy, (X, Y), l2=0.1)
    curvatures = [EKFAC(problem, relative=0.1) for problem in (found, wanted)]
    assert set(curvatures[0].coverage.values()) == {"Kronecker"}
    a, b = (Influence(c.problem, curvature=c).on_loss(TEST).values for c in curvatures)
    assert_close_per_row(a, b, 1e-10)
    if kind != "compiled inside":
        assert found.layout == wanted.layout
        assert torch.equal(found.retrained(copy.deepcopy(plain())).theta, wanted.theta)


def test_what_is_covered_is_said_among_the_settings():
    exported = torch.export.export(plain(), (X,), dynamic_shapes=({0: torch.export.Dim("b")},)).module()
    problem = Problem(exported, F.cross_entropy, (X, Y), l2=0.1)
    reasons = Influence(problem, curvature=EKFAC(problem, relative=0.1)).settings.reasons
    assert f"EKFAC covers its {problem.p} parameters: 100.0% dense; see EKFAC.coverage for which" in reasons
    problem = Problem(plain(), F.cross_entropy, (X, Y), l2=0.1)
    reasons = Influence(problem, curvature=EKFAC(problem, relative=0.1)).settings.reasons
    assert f"EKFAC covers its {problem.p} parameters: 100.0% Kronecker" in reasons


def test_damping_of_each_layer_is_damping():
    problem = Problem(plain(), F.cross_entropy, (X, Y), l2=0.01)
    found = trust(Influence(problem, curvature=EKFAC(problem, relative=0.1)), TEST)
    assert not any("no damping was needed" in reason for reason in found.reasons)
    assert found.sensitivity.index.name == "relative damping"
    assert found.sensitivity.index.tolist() == pytest.approx([0.01, 1.0])
    assert (found.sensitivity["size"].diff().dropna() < 0).all()
    scaled = EKFAC(problem, 0.2, relative=0.1).scaled(10.0)
    assert (scaled.damping, scaled.relative) == (2.0, 1.0)
