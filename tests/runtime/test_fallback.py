"""The slow way is taken where torch cannot go the fast one, and for no other reason."""

import pytest
import torch
from torch.func import vmap

from tests.support.cases import draw
from upweight.runtime.fallback import attempt, out_of_memory

FULL = {
    "a GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "a processor": RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
    ),
    "an older torch": RuntimeError("CUDA out of memory"),
}


def raising(error: Exception):
    def work() -> None:
        raise error

    return work


def unwanted() -> str:
    raise AssertionError("the slow way was taken")


def test_the_fast_way_is_enough():
    assert attempt(lambda: "fast", unwanted) == "fast"


@pytest.mark.parametrize("error", [RuntimeError("no batching rule"), NotImplementedError("no rule")])
def test_what_torch_cannot_do_is_done_slowly(error: Exception):
    assert attempt(raising(error), lambda: "slow") == "slow"


@pytest.mark.parametrize(
    "error", [ValueError("shape"), TypeError("type"), KeyError("key"), ZeroDivisionError()]
)
def test_other_errors_are_the_users(error: Exception):
    with pytest.raises(type(error)):
        attempt(raising(error), unwanted)


@pytest.mark.parametrize("where", FULL)
def test_for_want_of_memory_nothing_slower_is_tried(where: str):
    assert out_of_memory(FULL[where])
    with pytest.raises(RuntimeError) as raised:
        attempt(raising(FULL[where]), unwanted)
    assert raised.value is FULL[where]


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes do not match"), ValueError("nothing"), OSError(28, "disk")]
)
def test_anything_else_is_not_want_of_memory(error: Exception):
    assert not out_of_memory(error)


def test_real_control_flow_by_the_data():
    """torch.func cannot vectorise it; the loop gives the numbers."""
    X = draw(6)

    def one(x: torch.Tensor) -> torch.Tensor:
        return 2 * x if x.item() > 0 else -x

    found = attempt(lambda: vmap(one)(X), lambda: torch.stack([one(x) for x in X]))
    assert torch.equal(found, torch.where(X > 0, 2 * X, -X))


def test_the_slow_ways_own_error_is_raised():
    with pytest.raises(ValueError, match="slow"):
        attempt(raising(RuntimeError("fast")), raising(ValueError("slow")))
