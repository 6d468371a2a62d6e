"""What `import upweight` gives: every documented name, and the old names of modules that have moved."""

import importlib
import subprocess
import sys

import pytest

import upweight
from upweight.moved import MOVED


def test_the_modules_that_the_readme_names_are_there():
    names = ("plots", "evaluation", "vision", "frozen")
    code = f"import upweight as uw; print({', '.join(f'uw.{name}.__name__' for name in names)})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [
        "upweight.plots",
        "upweight.evaluation",
        "upweight.vision",
        "upweight.frozen",
    ]
    assert {"plots", "evaluation", "vision"} <= set(dir(upweight))


def test_verify_is_the_function():
    importlib.import_module("upweight.validation.verify")
    assert callable(upweight.verify)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'novelty'"):
        _ = upweight.novelty


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


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("curvature", "Hessian"),
        ("estimators", "from_estimator"),
        ("influence", "Influence"),
        ("linear", "LinearProblem"),
        ("network", "Problem"),
        ("solvers", "Exact"),
        ("validation", "verify"),
    ],
)
def test_a_module_that_became_a_package_still_has_its_name(package: str, name: str):
    assert hasattr(importlib.import_module(f"upweight.{package}"), name)
