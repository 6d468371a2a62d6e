"""Old names of modules still import, with a warning that says where things are now."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder

import pytest

from upweight.data import user_terms
from upweight.moved import MOVED, MovedFinder, install


@pytest.fixture(autouse=True)
def _old_names_are_forgotten() -> Iterator[None]:
    """Each test imports anew."""
    yield
    for old in MOVED:
        sys.modules.pop(f"upweight.{old}", None)


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_module_name_still_imports_and_says_where_it_is(old: str):
    sys.modules.pop(f"upweight.{old}", None)
    with pytest.warns(
        DeprecationWarning,
        match=rf"upweight\.{old} is upweight\.{MOVED[old].replace('.', chr(92) + '.')} now",
    ):
        stand_in = importlib.import_module(f"upweight.{old}")
    there = importlib.import_module(f"upweight.{MOVED[old]}")
    public = [name for name in vars(there) if not name.startswith("_")]
    assert public
    assert all(getattr(stand_in, name) is getattr(there, name) for name in public)
    assert there.__spec__ is not None
    assert there.__spec__.name == f"upweight.{MOVED[old]}"


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_is_no_module_of_today(old: str):
    """Else the old name would hide it, or be hidden by it."""
    assert importlib.util.find_spec(f"upweight.{MOVED[old]}") is not None
    assert MOVED[old].partition(".")[0] != old
    with pytest.warns(DeprecationWarning, match=f"upweight.{old} is"):
        assert not hasattr(importlib.import_module(f"upweight.{old}"), "__path__")


def test_names_are_imported_from_an_old_module():
    with pytest.warns(DeprecationWarning, match="upweight.terms is upweight.data.user_terms now"):
        from upweight.terms import Terms  # type: ignore[import-not-found]
    assert Terms is user_terms.Terms


def test_the_warning_points_to_whoever_imports():
    """In a process of its own: here every function of ours is wrapped by the one that checks types."""
    code = "import sys; exec(compile('import upweight.scores', 'theirs.py', 'exec'))"
    found = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True
    )
    assert "theirs.py:1: DeprecationWarning: upweight.scores is" in found.stderr


def test_a_name_that_is_in_neither_is_an_attribute_error():
    with pytest.warns(DeprecationWarning, match="upweight.vectors is"):
        stand_in = importlib.import_module("upweight.vectors")
    with pytest.raises(AttributeError, match="novelty"):
        _ = stand_in.novelty


@pytest.mark.parametrize("name", ["upweight.novelty", "upweight.data.terms", "other.terms", "terms"])
def test_other_names_are_nobodys_business(name: str):
    assert MovedFinder().find_spec(name) is None


def test_a_module_that_was_never_there_is_missing():
    with pytest.raises(ModuleNotFoundError, match=r"upweight\.novelty"):
        importlib.import_module("upweight.novelty")


def test_the_finder_stands_last_and_once():
    install()
    install()
    kinds = [type(finder) for finder in sys.meta_path]
    assert kinds.count(MovedFinder) == 1
    assert kinds.index(MovedFinder) > sys.meta_path.index(PathFinder)
