"""Tensors of whatever users have, and the precision of vectors beside rounded products."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from upweight.types import as_tensor, wide

FORMS: dict[str, Any] = {
    "list": [[1.0, 2.0], [3.0, 4.0]],
    "tuple": ((1.0, 2.0), (3.0, 4.0)),
    "array": np.array([[1.0, 2.0], [3.0, 4.0]]),
    "turned array": np.array([[1.0, 3.0], [2.0, 4.0]]).T,
    "frame": pd.DataFrame({"a": [1.0, 3.0], "b": [2.0, 4.0]}),
    "tensor": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
    "tensor with a gradient": torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True),
}


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_every_form(form: str):
    found = as_tensor(FORMS[form])
    assert found.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert not found.requires_grad


@pytest.mark.parametrize("values", [pd.Series([1, 2], index=["a", "b"]), pd.Index([1, 2]), range(1, 3)])
def test_columns(values: Any):
    assert as_tensor(values).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "dtype"), [(3, torch.int64), (3.0, torch.float64), (np.float32(3), torch.float32)]
)
def test_one_number(value: Any, dtype: torch.dtype):
    found = as_tensor(value)
    assert found.shape == ()
    assert found.dtype == dtype


def test_what_can_be_shared_is_shared():
    array, tensor = np.zeros(3), torch.zeros(3)
    for given in (array, tensor):
        found = as_tensor(given)
        given[1] = 5
        assert found.tolist() == [0, 5, 0]


def test_read_only_arrays_are_copied_without_a_warning():
    array = np.zeros(3)
    array.flags.writeable = False
    found = as_tensor(array)
    found[0] = 1
    assert array.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_vectors_have_at_least_single_precision(dtype: torch.dtype, wanted: torch.dtype):
    assert wide(dtype) == wanted
