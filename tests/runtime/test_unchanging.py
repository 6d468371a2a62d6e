"""Objects that never change: no field can be set, a copy starts with nothing computed, and writes are noticed."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from upweight.runtime.unchanging import Unchanging, derived, versions_of
from upweight.types import Tensor


@dataclass(frozen=True)
class Pair:
    """A tensor inside a field."""

    inner: Tensor
    word: str = "a"


class Counted(Unchanging):
    """A sum, and how often it was computed."""

    values: Tensor
    times: list[str]

    @derived
    def total(self) -> float:
        """The sum of the values."""
        self.times.append("total")
        return float(self.values.sum())

    @derived
    def nothing(self) -> None:
        self.times.append("nothing")


class Holding(Unchanging):
    """Fields of several kinds."""

    plain: Tensor
    other: Tensor
    pair: Pair


def counted() -> Counted:
    return Counted(values=torch.ones(3), times=[])


def test_fields_are_those_that_it_was_made_of():
    thing = counted()
    assert thing.values.tolist() == [1, 1, 1]
    assert not hasattr(thing, "novelty")


@pytest.mark.parametrize("name", ["values", "total", "cache", "novelty"])
def test_nothing_can_be_set_or_deleted(name: str):
    thing = counted()
    with pytest.raises(
        AttributeError, match=rf"a Counted does not change.*'{name}' cannot be set.*changed\({name}="
    ):
        setattr(thing, name, 1)
    with pytest.raises(AttributeError, match=rf"a Counted does not change: '{name}' cannot be deleted"):
        delattr(thing, name)
    assert thing.total == 3.0


def test_what_is_derived_is_computed_once_at_its_first_use():
    thing = counted()
    assert thing.times == []
    assert [thing.total, thing.total] == [3.0, 3.0]
    assert thing.times == ["total"]
    assert thing.cache["total"] == 3.0


def test_none_is_an_answer_that_is_kept_too():
    thing = counted()
    assert thing.nothing is None
    assert thing.nothing is None
    assert thing.times == ["nothing"]


def test_a_copy_shares_fields_and_computes_anew():
    thing = counted()
    assert thing.total == 3.0
    copy = thing._copy(values=torch.zeros(2))
    assert type(copy) is Counted
    assert copy.times is thing.times
    assert copy.total == 0.0
    assert thing.total == 3.0
    assert thing.times == ["total", "total"]
    again = thing._copy()
    assert again.values is thing.values
    assert "total" not in again.cache


def test_on_the_class_it_is_itself_with_its_words():
    assert isinstance(Counted.total, derived)
    assert Counted.total.__doc__ == "The sum of the values."


def test_two_objects_have_caches_of_their_own():
    first, second = counted(), Counted(values=torch.zeros(1), times=[])
    assert (first.total, second.total) == (3.0, 0.0)


WRITES: dict[str, Any] = {
    "plain": lambda thing: thing.plain.add_(1),
    "one number": lambda thing: thing.plain[0].fill_(5),
    "through a view": lambda thing: thing.plain.view(-1)[1:].zero_(),
    "inner": lambda thing: thing.pair.inner.mul_(2),
}


@pytest.mark.parametrize("write", WRITES)
def test_writes_into_tensors_are_noticed_and_named(write: str):
    thing = Unchanging(
        plain=torch.ones(3), pair=Pair(torch.ones(2)), other=torch.zeros(1), word="a", none=None
    )
    assert thing.written() == []
    WRITES[write](thing)
    assert thing.written() == ["inner" if write == "inner" else "plain"]


def test_reading_is_no_write():
    thing = Holding(plain=torch.ones(3))
    _ = thing.plain + 1, thing.plain.sum(), thing.plain.numpy().copy(), thing.plain.clone().add_(1)
    assert thing.written() == []


def test_a_copy_counts_from_its_own_beginning():
    thing = Holding(plain=torch.ones(3), other=torch.ones(1))
    thing.plain.add_(1)
    copy = thing._copy(other=torch.zeros(1))
    assert (thing.written(), copy.written()) == (["plain"], [])
    copy.plain.add_(1)
    assert copy.written() == ["plain"]


def test_only_tensors_that_torch_counts_have_versions():
    with torch.inference_mode():
        silent = torch.ones(2)
    fields = {"plain": torch.ones(1), "silent": silent, "pair": Pair(torch.ones(1)), "n": 3, "cls": Pair}
    assert versions_of({name: value for name, value in fields.items() if name != "cls"}).keys() == {
        "plain",
        "inner",
    }
