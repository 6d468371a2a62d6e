"""Products with the curvature of a batch: both engines, and models whose fused layers have no second derivative."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import all_products, close, make, rows_of
from upweight import Problem
from upweight.network.curvature_products import gauss_newton_product, hessian_product

every_kind = pytest.mark.parametrize("build", [hessian_product, gauss_newton_product])


@every_kind
def test_all_ways_to_a_product_agree(build):
    model, X, y = make("cnn")
    problem = Problem(model, F.cross_entropy, (X, y))
    rows, w = rows_of(problem), torch.rand(len(X), dtype=X.dtype)
    forward, double = (
        build(problem.evaluation, problem.theta, (X, y), w, mode) for mode in ("forward", "double")
    )
    wanted = double(rows)
    close(forward(rows), wanted)
    one_by_one = torch.cat([double(row[None]) for row in rows])  # the graph outlives its use
    close(one_by_one, wanted)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True, dropout=0.0)
        self.recurrent = nn.LSTM(4, 3, batch_first=True)

    def forward(self, x):
        return self.recurrent(self.layer(x))[0][:, -1]


def test_attention_and_recurrent_layers_have_second_derivatives():
    torch.manual_seed(0)
    model = Attention().double().eval()
    X, y = torch.randn(4, 3, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    problem = Problem(model, F.cross_entropy, (X, y))
    rows = rows_of(problem, 2)
    w = torch.ones(4, dtype=torch.float64)
    for second in (problem.hessian, problem.gauss_newton):
        wanted = second.block((X, y), w, "double")(rows) / 4
        close(second.product()(rows), wanted)
    close(all_products(problem, rows), rows @ problem.train_gradients(torch.arange(4)).T)
