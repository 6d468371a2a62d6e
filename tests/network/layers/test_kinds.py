"""The table of kinds: which module is which kind of layer."""

import sys
import types

import pytest
import torch
from torch import nn

from upweight.network.layers.convolution import Convolution
from upweight.network.layers.dense import Dense, TransposedDense
from upweight.network.layers.embedding import MOST_WORDS, Embedding
from upweight.network.layers.kinds import layer_of, norm_of
from upweight.network.layers.norm import ChannelNorm, RowNorm


class Own(nn.Linear):
    """A dense layer of somebody's own."""


class TheirRMSNorm(nn.Module):
    """A norm of another library."""


@pytest.mark.parametrize(
    ("module", "layer", "norm"),
    [
        (nn.Linear(2, 3), Dense, None),
        (Own(2, 3), Dense, None),
        (nn.Conv1d(1, 1, 1), Convolution, None),
        (nn.Conv2d(1, 1, 1), Convolution, None),
        (nn.Conv3d(1, 1, 1), None, None),
        (nn.ConvTranspose2d(1, 1, 1), None, None),
        (nn.Embedding(3, 2), Embedding, None),
        (nn.LayerNorm(2), None, RowNorm),
        (nn.RMSNorm(2), None, RowNorm),
        (TheirRMSNorm(), None, RowNorm),
        (nn.GroupNorm(1, 2), None, ChannelNorm),
        (nn.BatchNorm1d(2), None, ChannelNorm),
        (nn.Tanh(), None, None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_each_module_is_of_one_kind(module, layer, norm):
    assert layer_of(module) is layer
    assert norm_of(module) is norm


def test_a_layer_of_transformers_is_known_by_its_name(monkeypatch):
    made = types.ModuleType("transformers.pytorch_utils")
    kind = type("Conv1D", (nn.Module,), {"__module__": made.__name__})
    monkeypatch.setitem(sys.modules, made.__name__, made)
    assert layer_of(kind()) is TransposedDense
    assert layer_of(type("Conv1D", (nn.Module,), {"__module__": "another.library"})()) is None


def test_the_entries_of_a_weight_as_matrices():
    index = torch.arange(24)
    assert Dense.entries(nn.Linear(6, 4), index).tolist() == index.view(1, 4, 6).tolist()
    turned = types.SimpleNamespace(weight=torch.zeros(4, 6))
    assert TransposedDense.entries(turned, index).tolist() == index.view(4, 6).T[None].tolist()
    grouped = Convolution.entries(nn.Conv1d(4, 4, 3, groups=2), index)
    assert grouped.tolist() == index.view(2, 2, 6).tolist()
    few = Embedding.entries(nn.Embedding(8, 3), index)
    assert few is not None
    assert few.tolist() == index.view(1, 8, 3).tolist()
    assert Embedding.entries(nn.Embedding(MOST_WORDS + 1, 1), torch.arange(MOST_WORDS + 1)) is None
