"""What `import upweight` gives: every documented name, each module that the documentation names, and no other."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import upweight


def test_the_modules_that_the_documentation_names_are_there():
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


def test_every_public_name_is_there_and_described():
    assert len(upweight.__all__) == len(set(upweight.__all__))
    for name in upweight.__all__:
        assert (getattr(upweight, name).__doc__ or "").strip(), name
    assert set(upweight.__all__) <= set(dir(upweight))


def test_names_that_nobody_should_see_are_hidden():
    public = {name for name in vars(upweight) if not name.startswith("_")} - set(upweight.__all__)
    assert all(inspect.ismodule(getattr(upweight, name)) for name in public), public


def test_the_version_is_that_of_the_package():
    assert upweight.__version__ == importlib.metadata.version("upweight")


def test_type_checkers_are_told_where_each_name_is():
    tree = ast.parse(Path(upweight.__file__).read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
    told = {node.module: {name.name for name in node.names} for node in imports if node.module}
    assert told == {home: {*names.split()} for home, names in upweight._HOMES.items()}
    assert sorted(upweight.__all__) == sorted(name for names in told.values() for name in names)


def test_every_name_can_be_imported_by_a_star():
    found: dict[str, object] = {}
    exec("from upweight import *", found)
    assert set(upweight.__all__) <= set(found)


HEAVY = {"jaxtyping", "matplotlib", "numpy", "pandas", "pyarrow", "scipy", "sklearn", "starlette", "torch"}


@pytest.mark.parametrize(
    "code",
    [
        "import upweight; dir(upweight)",
        "import upweight; upweight.__version__; upweight.InfluenceError",
        "import upweight.cli",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str):
    assert not HEAVY & imported_by(code)


@pytest.mark.parametrize(
    "name", ["matplotlib", "torchvision", "transformers", "sklearn.svm", "pyarrow.parquet"]
)
def test_what_not_everybody_needs_is_not_imported(imported: set[str], name: str):
    assert name not in imported


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """All modules after all names of the library were used in a new process."""
    return imported_by("from upweight import *")


def imported_by(code: str) -> set[str]:
    """The modules that a new process has after running some code."""
    found = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(found.stdout.split())
