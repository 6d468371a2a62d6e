"""Which leaf is where in theta, and how leaf values become scores and gradients."""

import torch

from ..support.compare import assert_close_per_row
from ..support.ensembles import LOSSES, invented


def test_leaf_values_stand_behind_the_start_round_by_round_and_have_names():
    structure = invented(*LOSSES["softmax"], steps=(1.0, 0.5)).structure
    assert structure.p == 3 + 2 * 2 * 3 * 4
    assert structure.places[1][0][2] == slice(3 + 24 + 8, 3 + 24 + 12)
    assert structure.name_of(1) == "the start of score 1"
    assert structure.name_of(3 + 24 + 9) == "leaf 1 of tree 2 of round 1"


def test_gradients_are_the_derivatives_of_scores():
    structure = invented(*LOSSES["softmax"], steps=(1.0, 0.5)).structure
    draw, leaf = torch.Generator().manual_seed(0), structure.leaf[:, :9]
    theta = torch.randn(structure.p, generator=draw).double()
    slopes = torch.randn(9, 3, generator=draw).double()
    dense = torch.autograd.functional.jacobian(lambda at: structure.scores(at[None], leaf)[0], theta)
    assert_close_per_row(structure.gradients(slopes, leaf), torch.einsum("mc,mcp->mp", slopes, dense), 1e-12)
    pulled = structure.pulled_back(slopes[:, :, None], leaf)
    assert_close_per_row(pulled, torch.einsum("mc,mcp->p", slopes, dense)[None], 1e-12)


def test_some_rows_keep_their_leaves_and_bags():
    structure = invented(*LOSSES["squared"], bags=True).structure
    index = torch.tensor([5, 2])
    some = structure.take(index)
    assert torch.equal(some.leaf, structure.leaf[:, index])
    assert some.bags is not None
    assert structure.bags is not None
    assert torch.equal(some.bags, structure.bags[:, index])
