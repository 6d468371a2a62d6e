"""Flat vectors and parameters by name: there and back, against torch's own order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parameters_to_vector

from tests.support.cases import draw
from upweight.linalg.flat_vectors import Layout

shapes = st.lists(st.lists(st.integers(1, 3), max_size=3).map(tuple), min_size=1, max_size=4).map(tuple)


@given(shapes, st.lists(st.integers(1, 3), max_size=2).map(tuple))
def test_there_and_back(shapes: tuple[tuple[int, ...], ...], lead: tuple[int, ...]):
    layout = Layout(tuple(f"p{i}" for i in range(len(shapes))), shapes)
    flat = draw(*lead, layout.size)
    params = layout.unpack(flat)
    assert {name: part.shape for name, part in params.items()} == {
        name: (*lead, *shape) for name, shape in zip(layout.names, shapes, strict=True)
    }
    assert torch.equal(layout.pack(params, lead=len(lead)), flat)
    assert sum(layout.sizes) == layout.size == flat.shape[-1]


def test_the_order_is_torchs():
    model = nn.Sequential(nn.Linear(3, 2), nn.Conv1d(1, 2, 3), nn.LayerNorm(4))
    params = {name: part.detach() for name, part in model.named_parameters()}
    layout = Layout(tuple(params), tuple(tuple(part.shape) for part in params.values()))
    flat = parameters_to_vector(model.parameters())
    assert torch.equal(layout.pack(params), flat)
    for name, part in layout.unpack(flat).items():
        assert torch.equal(part, params[name])


def test_what_is_unpacked_are_views():
    flat = torch.zeros(5)
    Layout(("a", "b"), ((2,), (3, 1))).unpack(flat)["b"][1] = 7.0
    assert flat.tolist() == [0, 0, 0, 7, 0]


def test_a_scalar_parameter_is_one_entry():
    layout = Layout(("scale", "weight"), ((), (2,)))
    assert layout.sizes == [1, 2]
    assert layout.unpack(torch.tensor([5.0, 1.0, 2.0]))["scale"].shape == ()


def test_only_the_names_of_the_layout_are_packed_in_its_order():
    layout = Layout(("b", "a"), ((1,), (1,)))
    params = {"a": torch.tensor([1.0]), "other": torch.tensor([9.0]), "b": torch.tensor([2.0])}
    assert layout.pack(params).tolist() == [2.0, 1.0]
    with pytest.raises(KeyError, match="b"):
        layout.pack({"a": torch.ones(1)})


def test_a_vector_of_another_length_is_refused():
    with pytest.raises(RuntimeError):
        Layout(("a",), ((3,),)).unpack(torch.zeros(4))
