"""Start scores, beside autograd."""

import pytest
import torch

from upweight.trees.start import Fixed, FromMean

from ..support.compare import assert_close_per_row

STARTS = [
    FromMean(),
    FromMean("log"),
    FromMean("logit"),
    FromMean("step"),
    FromMean("log", centred=True),
    Fixed((1.0, 2.0)),
]


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_the_slopes_are_the_derivative_of_the_value(start):
    mean, moves = (
        torch.tensor([0.3, 0.6]).double(),
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double(),
    )
    dense = torch.autograd.functional.jacobian(start.value, mean)
    assert_close_per_row(start.slopes(mean, moves), moves @ dense.T, 1e-12)


def test_a_given_start_does_not_follow_the_data():
    assert Fixed((0.5,)).value(torch.tensor([9.0])).tolist() == [0.5]
