"""The streamed extremes against a sort of the whole."""

import itertools

import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.influence.top_k import strongest


@given(
    m=st.integers(1, 4),
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    top=st.integers(1, 6),
    few=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_streamed_extremes_are_those_of_the_whole(m, sizes, top, few, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randn(m, sum(sizes), generator=generator, dtype=dtype)
    whole = whole.round() if few else whole  # many equal values
    edges = torch.tensor([0, *sizes]).cumsum(0).tolist()
    parts = [(slice(a, b), whole[:, a:b]) for a, b in itertools.pairwise(edges)]
    values, columns = strongest(parts, m, top)
    order = whole.double().sort(dim=1, stable=True)
    expected = torch.arange(sum(sizes))
    if sum(sizes) > 2 * top:
        expected = torch.cat([expected[:top], expected[-top:]])
    assert torch.equal(values, order.values[:, expected])
    assert torch.equal(columns, order.indices[:, expected])


def test_a_value_that_is_not_a_number_is_shown_not_dropped():
    whole = torch.randn(2, 40, generator=torch.Generator().manual_seed(0))
    whole[1, 33] = torch.nan
    values, columns = strongest([(slice(a, a + 10), whole[:, a : a + 10]) for a in range(0, 40, 10)], 2, 3)
    assert columns[1, -1] == 33
    assert values[0].isfinite().all()
    assert values[1, :-1].isfinite().all()
