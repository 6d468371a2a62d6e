"""Mixed derivatives in parameters and inputs against differences."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.support.small_models import close, make, rows_of
from upweight import Problem


def test_input_gradients_equal_differences():
    model, X, y = make("cnn")
    problem = Problem(model, F.cross_entropy, (X, y))
    rows, step = rows_of(problem, 2), 1e-6
    move = torch.randn_like(X[:3])
    found = (problem.input_gradients((X[:3], y[:3]), rows) * move).flatten(2).sum(2)
    ends = [problem.test_gradients((X[:3] + s * move, y[:3])) @ rows.T for s in (step, -step)]
    close(found, (ends[0] - ends[1]).T / (2 * step), 1e-6)


def test_whole_numbers_have_no_input_gradient():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(6, 3)).double()
    tokens, y = torch.tensor([[0, 1], [2, 3], [4, 4]]), torch.tensor([0, 1, 2])
    problem = Problem(model, F.cross_entropy, (tokens, y))
    with pytest.raises(TypeError, match=r"real numbers, got torch\.int64"):
        problem.input_gradients((tokens, y), rows_of(problem))


def test_a_layer_that_is_not_there_is_named():
    model, X, y = make()
    problem = Problem(model, F.cross_entropy, (X, y))
    with pytest.raises(ValueError, match="no layer '9'"):
        problem.input_gradients((X, y), rows_of(problem), at="9")
