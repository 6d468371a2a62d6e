"""Boxes: whatever is inside is stored as the same bytes, and what is outside is not."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.uses.box import Box, to_pixels

BYTES = torch.arange(256, dtype=torch.uint8)
SCALES = [(127.5, 127.5), (255.0, 0.0), (58.0, 103.9)]


@pytest.mark.parametrize(("scale", "offset"), SCALES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_byte_comes_back(scale: float, offset: float, dtype: torch.dtype):
    assert torch.equal(to_pixels((BYTES.to(dtype) - offset) / scale, scale, offset), BYTES)


@given(st.sampled_from(SCALES), st.floats(0, 1), st.booleans())
def test_what_is_inside_is_the_same_image_and_just_outside_another(
    scales: tuple[float, float], share: float, up: bool
):
    box = Box.same_pixels(BYTES, *scales)
    inside = box.low + share * (box.high - box.low)
    box.check(inside.clamp(box.low, box.high))
    assert torch.equal(to_pixels(inside, *scales), BYTES)
    # Half a grey level and a little: the next byte, where there is one.
    step = 0.01 / scales[0]
    outside = box.high + step if up else box.low - step
    other = to_pixels(outside, *scales)
    ends = (255 if up else 0) == BYTES
    assert torch.equal(other[~ends], BYTES[~ends] + (1 if up else -1))
    assert torch.equal(other[ends], BYTES[ends])
    with pytest.raises(ValueError, match="256 numbers of the inputs lie outside the box"):
        box.check(outside)


def test_an_input_nearly_fills_its_grey_level():
    box = Box.same_pixels(BYTES, 255.0, 0.0)
    width = (box.high - box.low) * 255
    assert bool((width[1:-1] > 0.99).all())
    assert bool((width <= 1).all())
    assert float(box.low[0]) == 0.0  # no byte below it
    assert float(box.high[-1]) == 1.0


def test_what_is_beyond_bytes_is_stored_as_the_nearest_one():
    assert to_pixels(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


@given(st.lists(st.floats(0, 3), min_size=2, max_size=2))
def test_a_box_around_moves_each_column_by_its_radius(radius: list[float]):
    inputs = torch.tensor([[0.5, -2.0], [1.0, 4.0]], dtype=torch.float64)
    box = Box.around(inputs, radius)
    assert torch.allclose(box.high - inputs, torch.tensor(radius).double().expand(2, 2))
    assert torch.allclose(inputs - box.low, torch.tensor(radius).double().expand(2, 2))
    box.check(inputs)


def test_what_is_no_box_or_does_not_hold_the_inputs_is_refused():
    with pytest.raises(TypeError, match=r"pixels must be uint8, got torch\.float32"):
        Box.same_pixels(torch.zeros(3))
    for radius in (-1.0, [0.0, -0.1], float("nan")):
        with pytest.raises(ValueError, match="the radius of a box must be >= 0"):
            Box.around(torch.zeros(1, 2), radius)
    box = Box.around(torch.zeros(1, 2), 1.0)
    with pytest.raises(
        ValueError, match=r"1 numbers of the inputs lie outside the box.*scaled as the box is"
    ):
        box.check(torch.tensor([[0.5, float("nan")]]))
    with pytest.raises(ValueError, match=r"the box has shape \(1, 2\), the inputs have \(2, 2\)"):
        box.check(torch.zeros(2, 2))
