"""Blocks that follow the memory there is, and graphs that are kept where there is enough: the answers stay."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close, make, rows_of
from upweight import EKFAC, Problem
from upweight.errors import SmallerBlocksWarning
from upweight.network.memory import MemoryPlan
from upweight.network.second_derivatives import NetworkHessian


@pytest.mark.parametrize("name", ["hessian", "gauss_newton"])
def test_products_are_the_same_bits_whether_graphs_are_kept_or_not(monkeypatch, name):
    model, X, y = make(dtype=torch.float32)
    problem = Problem(model, F.cross_entropy, (X, y), batch_size=5)
    rows = rows_of(problem, 20)
    kept = getattr(problem, name).product()
    monkeypatch.setattr("upweight.network.memory.KEPT_BYTES", 0)
    made = getattr(problem, name).product()
    for _ in range(3):
        assert torch.equal(kept(rows), made(rows))


def test_graphs_are_made_once_from_the_second_product_on(monkeypatch):
    model, X, y = make()
    built = []
    block = NetworkHessian.block

    def counted(self, *args):
        built.append(1)
        return block(self, *args)

    monkeypatch.setattr(NetworkHessian, "block", counted)

    def counts(problem):
        built.clear()
        product = problem.hessian.product()
        found = []
        for _ in range(4):
            product(rows_of(problem))
            found.append(len(built))
        return found

    problem = Problem(model, F.cross_entropy, (X, y), batch_size=5)
    assert counts(problem) == [3, 6, 6, 6]
    monkeypatch.setattr("upweight.network.memory.KEPT_BYTES", 0)
    assert counts(problem) == [3, 6, 9, 12]


class Hungry(nn.Module):
    """Fails as torch does for more than a few examples at once, once it is told to."""

    def __init__(self, loose: bool):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
        self.loose = nn.Parameter(torch.ones(8 if loose else 1))
        self.most = 1000

    def forward(self, x):
        if len(x) > self.most:
            torch.empty(1 << 60)
        return self.body(x) * self.loose.sum()


@pytest.mark.parametrize("loose", [True, False])
def test_out_of_memory_means_smaller_blocks_and_the_same_answers(loose):
    torch.manual_seed(0)
    model = Hungry(loose).double()
    train, test = ((torch.randn(n, 4).double(), torch.randint(0, 3, (n,))) for n in (40, 18))
    wanted = Problem(model, F.cross_entropy, train, l2=0.1, batch_size=16)

    eye = torch.eye(wanted.p).double()
    questions = (
        lambda problem: problem.gradient()[None],
        lambda problem: problem.at(problem.theta).train_losses()[None],  # kept, once they were taken
        lambda problem: problem.test_gradients(test),
        lambda problem: problem.train_gradients(torch.arange(40)),
        lambda problem: problem.hessian.product()(eye),
        lambda problem: problem.gauss_newton.matrix(),
        lambda problem: torch.cat([part for _, part in problem.products(eye)], 1),
        lambda problem: torch.cat([part for _, part in problem.products(eye[:2])], 1),
        lambda problem: EKFAC(problem, 0.1).factor().solve(eye),
    )
    told = 0
    for question in questions:
        model.most = 1000
        expected, found = question(wanted), Problem(model, F.cross_entropy, train, l2=0.1, batch_size=16)
        model.most = 8  # what models are tried on
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            close(question(found), expected)
        assert all("out of memory: going on in blocks of" in str(warning.message) for warning in said)
        told += bool(said)
    assert told >= 6  # what takes one example at a time under vmap has no large block
    model.most = 0
    with pytest.warns(SmallerBlocksWarning), pytest.raises(RuntimeError, match="memory"):
        wanted.gradient()


def test_a_plan_halves_its_blocks_and_says_so():
    plan = MemoryPlan(per_example=1 << 20, gradient=1 << 20, on_cpu=True, size=12)
    assert (plan.size, plan.gradient_size, plan.layered_size, plan.jacobians(2)) == (12, 12, 12, 32)
    tried = []

    def work() -> int:
        tried.append(plan.size)
        if plan.size > 6:
            raise torch.OutOfMemoryError("full")
        return plan.size

    with pytest.warns(SmallerBlocksWarning, match="blocks of 6 examples"):
        assert plan.patiently(work) == 6
    assert tried == [12, 6]
    with pytest.raises(ZeroDivisionError):
        plan.patiently(lambda: 1 // 0)
    with pytest.raises(RuntimeError, match="another"):
        plan.patiently(lambda: (_ for _ in ()).throw(RuntimeError("another")))
    assert plan.size == 6


@pytest.mark.parametrize(
    ("per_example", "gradient", "on_cpu", "size"),
    [
        (1 << 10, 1 << 10, True, 2048),  # 2 MiB
        (1 << 10, 1 << 20, True, 8192),  # a block must be worth reading so many parameters
        (1 << 10, 1 << 10, False, 8192),
        (1 << 20, 1 << 10, True, 128),  # few, but enough for a call
        (1 << 30, 1 << 10, True, 1),
    ],
)
def test_blocks_suit_the_model(per_example, gradient, on_cpu, size):
    assert MemoryPlan(per_example, gradient, on_cpu).size == size
