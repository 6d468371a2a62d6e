"""Files of tensors: what is read is what was written, whole or not at all, and nothing else is taken for one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from upweight.runtime import tensor_files
from upweight.runtime.fingerprint import FORMAT
from upweight.runtime.tensor_files import KEY, check_format, read, write, write_own

VALUES = {
    "float32": torch.tensor([1.5, -2.0]),
    "float64": torch.tensor([[1e-300, 2.0]], dtype=torch.float64),
    "bfloat16": torch.ones(3, dtype=torch.bfloat16),
    "whole numbers": torch.arange(6).view(2, 3),
    "booleans": torch.tensor([True, False]),
    "one number": torch.tensor(4.0),
    "none": torch.zeros(0, 3),
    "every second": torch.arange(6.0)[::2],
    "turned": torch.arange(6.0).view(2, 3).T,
    "with a gradient": torch.ones(2, requires_grad=True),
}
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.safetensors"


def with_header(path: Path, words: str | None) -> None:
    """A safetensors file with these words of ours, or with none."""
    save_file({"values": torch.ones(2)}, path, metadata=None if words is None else {KEY: words})


def test_tensors_come_back_as_they_were(path: Path):
    write(path, VALUES, {})
    found, words = read(path, "a file")
    assert words == {}
    assert found.keys() == VALUES.keys()
    for name, wanted in VALUES.items():
        assert found[name].dtype == wanted.dtype
        assert torch.equal(found[name], wanted), name


@settings(max_examples=25)
@given(words=st.dictionaries(st.text().filter(lambda key: key != "format"), json_values, max_size=4))
def test_words_come_back_as_they_were(words: dict[str, Any], tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("words") / "kept.safetensors"
    before = json.dumps(words)
    write(path, {"a": torch.ones(1)}, words)
    assert read(path, "a file")[1] == words
    assert json.dumps(words) == before


def test_a_name_may_be_a_string(path: Path):
    write(str(path), {"a": torch.ones(1)}, {"b": 1})
    assert read(str(path), "a file")[1] == {"b": 1}


def test_nothing_else_is_left_in_the_folder(path: Path):
    write(path, {"a": torch.ones(1)}, {})
    write(path, {"a": torch.zeros(1)}, {})
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    assert not read(path, "a file")[0]["a"].any()


def test_what_cannot_be_written_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch):
    write(path, {"a": torch.ones(1)}, {"which": "first"})

    def full(tensors: Any, place: Path, **options: Any) -> None:
        place.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write(path, {"a": torch.zeros(1)}, {"which": "second"})
    assert read(path, "a file")[1] == {"which": "first"}


def test_words_that_json_cannot_hold_leave_what_was_there(path: Path):
    write(path, {"a": torch.ones(1)}, {"which": "first"})
    with pytest.raises(TypeError, match="not JSON serializable"):
        write(path, {"a": torch.ones(1)}, {"which": object()})
    assert read(path, "a file")[1] == {"which": "first"}


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_one_writes(path: Path, rank: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tensor_files, "rank", lambda: rank)
    write(path, {"a": torch.ones(1)}, {})
    assert path.exists() == (rank == 0)
    write_own(path, {"a": torch.zeros(1)}, {})
    assert not read(path, "a file")[0]["a"].any()


@pytest.mark.parametrize("format", [None, FORMAT - 1, FORMAT + 1])
def test_another_format_is_refused_with_both_numbers(path: Path, format: int | None):
    with_header(path, json.dumps({} if format is None else {"format": format}))
    with pytest.raises(ValueError, match="delete it and compute it again") as raised:
        read(path, "a score file")
    said = str(raised.value)
    assert f"{path} is a score file of" in said
    assert f"reads format {FORMAT}:" in said
    assert ("without a number" if format is None else f"of format {format},") in said


def test_files_of_the_next_format_will_be_refused_by_this_one(path: Path, monkeypatch: pytest.MonkeyPatch):
    with monkeypatch.context() as later:
        later.setattr(tensor_files, "FORMAT", FORMAT + 1)
        write(path, {"a": torch.ones(1)}, {})
        assert read(path, "a file")[1] == {}
    with pytest.raises(ValueError, match=f"format {FORMAT + 1}"):
        read(path, "a file")


def test_the_format_of_this_version_passes():
    check_format(FORMAT, "somewhere", "a file")


@pytest.mark.parametrize(
    "contents",
    [
        lambda path: path.write_bytes(b"not ours"),
        lambda path: path.write_bytes(b""),
        lambda path: with_header(path, None),
        lambda path: with_header(path, "not JSON"),
    ],
    ids=["another file", "an empty file", "no words", "broken words"],
)
def test_any_other_file_is_none_of_ours(path: Path, contents: Any):
    contents(path)
    with pytest.raises(ValueError, match=r"kept\.safetensors is not a curvature file of upweight"):
        read(path, "a curvature file")


@pytest.mark.parametrize("left", [4, 60, -1])
def test_a_file_that_is_cut_off_is_refused(path: Path, left: int):
    write(path, {"a": torch.arange(100.0)}, {"b": 1})
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="is not a file of upweight"):
        read(path, "a file")


@pytest.mark.parametrize(
    ("contents", "said"),
    [
        (
            lambda path: path.write_bytes(b"not ours"),
            "it is cut off, or the list of tensors in its header is broken",
        ),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is cut off"),
        (lambda path: with_header(path, None), "its header has no entry 'upweight'"),
        (lambda path: with_header(path, "not JSON"), "the entry 'upweight' of its header is broken"),
        (lambda path: with_header(path, "0" * 32 + "[1]"), "the entry 'upweight' of its header is broken"),
    ],
)
def test_what_is_damaged_is_said_and_what_to_do(path: Path, contents: Any, said: str):
    write(path, {"a": torch.arange(100.0)}, {"b": 1})
    contents(path)
    with pytest.raises(ValueError, match=f"{said}.*; delete it and compute it again"):
        read(path, "a file")


def test_a_file_that_is_not_there(path: Path):
    with pytest.raises(FileNotFoundError):
        read(path, "a file")


# -- what has changed since it was written ---


def test_no_bit_of_a_file_changes_without_a_word(path: Path):
    """Every byte of a small file, one bit flipped: refused, or (the header's spaces) the same numbers and words."""
    tensors = {"a": torch.arange(3, dtype=torch.float64), "b": torch.tensor([1, 2])}
    write(path, tensors, {"n": 30, "sign": "up"})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found, words = read(path, "a file")
        except (ValueError, TypeError):
            continue
        assert words == {"n": 30, "sign": "up"}, place
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors), place


def test_files_without_a_checksum_are_refused(path: Path):
    with_header(path, json.dumps({"format": FORMAT}))
    with pytest.raises(ValueError, match="was written without a checksum, by an earlier version"):
        read(path, "a file")


def test_what_is_missing_is_named(path: Path):
    write(path, {"a": torch.ones(1)}, {"n": 1})
    assert read(path, "a file", "a", "n")[1] == {"n": 1}
    with pytest.raises(ValueError, match=r"is not a score file of upweight: it has no values, edit"):
        read(path, "a score file", "values", "a", "edit")
