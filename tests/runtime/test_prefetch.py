"""Reading ahead: the items in order, one of them early, and torch's threads back afterwards."""

import os
import threading
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from upweight.runtime.prefetch import ahead

LONG = 60.0
"""Seconds after which a thread that should have done something surely will not."""


@pytest.fixture
def threads() -> Iterator[int]:
    """torch on four threads, and afterwards as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield 4
    torch.set_num_threads(before)


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]


@given(st.lists(st.integers() | st.none()))
def test_all_items_come_in_order(items: list[int | None]):
    assert list(ahead(iter(items))) == items


def test_the_next_item_is_made_while_one_is_in_use():
    begun = [threading.Event() for _ in range(3)]

    def items() -> Iterator[int]:
        for i, event in enumerate(begun):
            event.set()
            yield i

    coming = ahead(items())
    assert next(coming) == 0
    assert begun[1].wait(LONG)  # nobody has asked for it
    assert not begun[2].is_set()  # one item early, no more
    assert next(coming) == 1
    assert begun[2].wait(LONG)
    assert list(coming) == [2]


def test_items_are_made_by_one_other_thread():
    def items() -> Iterator[int]:
        for _ in range(4):
            yield threading.get_ident()

    makers = set(ahead(items()))
    assert len(makers) == 1
    assert makers != {threading.get_ident()}


def test_an_error_of_the_reader_reaches_the_caller_at_its_item():
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the disk is gone")

    coming = ahead(broken())
    assert [next(coming), next(coming)] == [1, 2]
    with pytest.raises(OSError, match="the disk is gone"):
        next(coming)
    assert not readers()


def test_a_pass_that_is_cut_off_leaves_no_thread():
    coming = ahead(iter(range(100)))
    next(coming)
    assert readers()
    coming.close()  # type: ignore[attr-defined]
    assert not readers()


def test_nothing_is_read_before_somebody_asks():
    def items() -> Iterator[int]:
        raise AssertionError("read")
        yield 0

    ahead(items())
    assert not readers()


@pytest.mark.parametrize(("cores", "left"), [(1, 1), (2, 1), (3, 2), (16, 4)])
def test_torch_leaves_one_core_to_the_reader(
    cores: int, left: int, threads: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    for _ in ahead(iter([1, 2])):
        assert torch.get_num_threads() == left
    assert torch.get_num_threads() == threads


def test_where_the_system_does_not_say_which_cores(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    for _ in ahead(iter([1])):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == threads


def test_torch_has_its_threads_back_when_the_last_reader_ends(threads: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    first, second = ahead(iter([1, 2])), ahead(iter([1, 2]))
    assert next(first) == next(second) == 1
    assert list(first) == [2]
    assert torch.get_num_threads() == 1
    assert list(second) == [2]
    assert torch.get_num_threads() == threads


def test_torch_has_its_threads_back_after_an_error(threads: int):
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // i for i in (1, 0)))
    assert torch.get_num_threads() == threads
