"""Content hashes: equal for equal bytes, other for any other, and what an object known by one notices."""

from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from tests.support.cases import draw
from upweight.errors import StaleError
from upweight.runtime import fingerprint
from upweight.runtime.fingerprint import Identified, content_hash
from upweight.types import Tensor


def plain(parts: list[Tensor], settings: str = "") -> str:
    """The hash of the bytes as NumPy lays them out."""
    text = b"".join(part.detach().contiguous().numpy().tobytes() for part in parts)
    return xxhash.xxh3_128(settings.encode() + text).hexdigest()


FORMS = {
    "plain": draw(3, 4),
    "turned": draw(3, 4).T,
    "every second": draw(10)[::2],
    "every fourth of four": draw(4)[::4],
    "some columns": draw(3, 4)[:, 1:3],
    "repeated": draw(3, 1).expand(3, 4),
    "one number": draw(1)[0],
    "empty": draw(0, 3),
    "booleans": draw(5) > 0,
    "whole numbers": torch.arange(5),
    "single precision": draw(5).float(),
    "with a gradient": draw(5).requires_grad_(),
}


@pytest.mark.parametrize("form", FORMS)
def test_it_is_the_hash_of_the_bytes_in_order(form: str):
    part = FORMS[form]
    assert content_hash([part]) == plain([part])
    assert content_hash([part, draw(2)], "settings") == plain([part, draw(2)], "settings")


def test_bfloat16_has_bytes_too():
    part = draw(5).to(torch.bfloat16)
    assert content_hash([part]) == content_hash([part.view(torch.int16)])


@given(st.integers(1, 40), st.data())
def test_any_change_of_one_number_is_seen(size: int, data: st.DataObject):
    X, place = draw(size), data.draw(st.integers(0, size - 1))
    before = content_hash([X])
    X[place] = np.nextafter(float(X[place]), np.inf)
    assert content_hash([X]) != before


def test_the_order_of_parts_and_the_settings_count():
    a, b = draw(2), draw(2, seed=1)
    hashes = [
        content_hash([a, b]),
        content_hash([b, a]),
        content_hash([a]),
        content_hash([a], "x"),
        content_hash([]),
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_hash_of_today_is_that_of_tomorrow():
    """Score files name it: another hash would refuse them all, and needs another format number."""
    assert content_hash([torch.arange(3.0)], "settings") == "19b1532a973bdfe33dff4aa4fbac4ea2"
    assert fingerprint.FORMAT == 2


class Held(Identified):
    """An array and a factor, known by both."""

    array: np.ndarray
    factor: Tensor
    looked: list[str]

    def identity(self) -> tuple[list[Tensor], str]:
        self.looked.append("all")
        return [torch.from_numpy(self.array)], repr(self.factor.tolist())

    def check_data(self) -> None:
        self.looked.append("some")
        if self.array[0] != 0:
            raise StaleError("the first number moved")


def held(**fields: Any) -> Held:
    return Held(**{"array": np.zeros(5), "factor": torch.ones(2), "looked": [], **fields})


def test_it_is_computed_once_and_equal_for_equal_objects():
    first, second = held(), held()
    assert first.fingerprint() == first.fingerprint() == second.fingerprint()
    assert first.looked == ["all"]
    assert held(array=np.ones(5)).fingerprint() != first.fingerprint()
    assert held(factor=torch.zeros(2)).fingerprint() != first.fingerprint()


def test_a_copy_computes_its_own():
    first = held()
    before = first.fingerprint()
    copy = first._copy(factor=torch.zeros(2))
    assert copy.fingerprint() == held(factor=torch.zeros(2)).fingerprint() != before
    assert first.fingerprint() == before


def test_another_format_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch):
    before = held().fingerprint()
    monkeypatch.setattr(fingerprint, "FORMAT", fingerprint.FORMAT + 1)
    assert held().fingerprint() != before


def test_fields_that_were_written_into_are_named_before_anybody_looks_at_data():
    thing = held()
    thing.check_current()
    assert thing.looked == ["some"]
    thing.factor.mul_(2)
    with pytest.raises(StaleError, match=r"factor of this Held changed in place.*changed\(\.\.\.\)"):
        thing.check_current()
    assert thing.looked == ["some"]


def test_data_that_moved_are_seen_by_the_check_of_the_object():
    thing = held()
    thing.array[0] = 1
    with pytest.raises(StaleError, match="the first number moved"):
        thing.check_current()


def test_before_answers_are_kept_every_number_is_compared():
    thing = held()
    thing.fingerprint()
    thing.check_unmoved()
    thing.array[3] = 1e-9  # not where `check_data` looks
    thing.check_current()
    with pytest.raises(StaleError, match="changed in place since this problem was made"):
        thing.check_unmoved()
