"""The Gauss-Newton matrix against J^T H_out J, written out."""

import pytest
import torch
import torch.nn.functional as F

from tests.support.networks import problem_of
from tests.support.small_models import close, make
from upweight import Problem


@pytest.mark.parametrize("kind", ["cnn", "mlp"])
def test_gauss_newton_is_the_gauss_newton_matrix(kind):
    model, X, y = make(kind)
    problem = Problem(model, F.cross_entropy, (X, y), l2=0.01, batch_size=5)

    def outputs(theta):
        return torch.func.functional_call(model, problem.layout.unpack(theta), (X,))

    J = torch.autograd.functional.jacobian(outputs, problem.theta)
    q = outputs(problem.theta).softmax(1).detach()
    B = torch.diag_embed(q) - q[:, :, None] * q[:, None]
    G = torch.einsum("bcp,bcd,bdq->pq", J, B, J) / len(X) + 0.01 * torch.eye(problem.p, dtype=X.dtype)
    close(problem.gauss_newton.matrix(), G, 1e-9)
    assert torch.linalg.eigvalsh(G)[0] > 0


@pytest.mark.parametrize(
    "name", ["mlp", "branches", "signal"]
)  # layer by layer, example by example, some of both
def test_few_outputs_or_many_give_the_same(name, monkeypatch):
    problem = problem_of(name)
    wanted = problem.gauss_newton.matrix()
    monkeypatch.setattr("upweight.network.second_derivatives.FEW_OUTPUTS", 0)  # by products
    close(problem.gauss_newton.matrix(), wanted, 1e-10)
    monkeypatch.undo()
    monkeypatch.setattr("upweight.network.memory.JACOBIAN_BYTES", 1)  # one example at a time
    close(problem.gauss_newton.matrix(), wanted, 1e-12)
