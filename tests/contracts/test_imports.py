"""Imports go only downward (docs/design.md): this reads the import statements and fails on an upward one.

All import statements count, also those inside functions and under `if TYPE_CHECKING`.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "upweight"

# Low to high. A unit (a module at the root or a package) imports only what stands above it in this list, and itself.
LEVELS = (
    {"types", "errors", "moved"},
    {"linalg", "runtime"},
    {"losses", "measures", "penalty", "data", "vision"},
    {"frozen", "capabilities", "outputs"},
    {"objective"},
    {"linear", "likelihood", "moments", "network", "trees", "curvature"},
    {"training", "estimators", "solvers"},
    {"influence"},
    {"retraining"},
    {"uses", "validation", "evaluation"},
    {"tables", "plots"},
    {"report"},
    {"review"},
    {"cli"},
    {"__main__"},
)
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}
STILL: set[tuple[str, str]] = set()
"""Imports between units that contradict the order and are still there: this may only shrink."""


def read(package: Path) -> dict[str, str]:
    """The source of each module of `package` by its dotted name; a package's own source is under `name.__init__`."""
    return {
        ".".join(file.relative_to(package.parent).with_suffix("").parts): file.read_text(encoding="utf-8")
        for file in sorted(package.rglob("*.py"))
    }


def imported(source: str, importer: str, modules: set[str]) -> Iterator[str]:
    """The modules among `modules` that the import statements of `source`, the text of `importer`, name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            paths = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = importer.split(".")[: -node.level] if node.level else []
            base = ".".join([*above, node.module] if node.module else above)
            # `from .a import b` reads the module a.b if there is one, and otherwise a name in a.
            paths = [f"{base}.{alias.name}" for alias in node.names]
            paths = [path if {path, f"{path}.__init__"} & modules else base for path in paths]
        else:
            continue
        for path in paths:
            yield f"{path}.__init__" if f"{path}.__init__" in modules else path


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong with the imports of a package, in words; `sources` as `read` returns them."""
    root = next(iter(sources)).partition(".")[0]
    top = f"{root}.__init__"
    inner = {name: source for name, source in sources.items() if name != top}  # the top may import anything
    found: list[str] = []
    graph: dict[str, set[str]] = {}
    unlisted = sorted({name.split(".")[1] for name in inner} - LEVEL.keys())
    found += [
        f"{unit} has no level: add it to LEVELS in tests/contracts/test_imports.py" for unit in unlisted
    ]
    for importer, source in inner.items():
        targets = {t for t in imported(source, importer, set(sources)) if t.partition(".")[0] == root}
        if targets & {root, top}:
            found.append(f"{importer} imports {root} itself: import the module that has the name")
        graph[importer] = targets & inner.keys()
        own = importer.split(".")[1]
        for target in sorted(graph[importer]):
            other = target.split(".")[1]
            low, high = LEVEL.get(own, -1), LEVEL.get(other, -1)
            if own == other or min(low, high) < 0 or (own, other) in STILL:
                continue
            if low < high:
                found.append(f"{importer} imports {target}, which stands above it")
            elif low == high:
                found.append(f"{importer} imports {target}, which stands beside it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"imports in a circle: {' <- '.join(error.args[1])}")
    return found


def test_imports_go_downward():
    assert violations(read(PACKAGE)) == []


def test_experiments_import_no_benchmarks():
    sources = read(PACKAGE.parents[1] / "experiments")
    benchmarks = {name: "" for name in read(PACKAGE.parents[1] / "benchmarks")}
    found = {
        importer: targets
        for importer, source in sources.items()
        if (targets := [*imported(source, importer, sources.keys() | benchmarks.keys())])
        and any(target.startswith("benchmarks") for target in targets)
    }
    assert benchmarks
    assert found == {}


@pytest.mark.parametrize(
    "statement",
    [
        "from .cli import app",
        "from . import cli",
        "import upweight.cli",
        "from upweight.cli import app",
        "from upweight import cli",
        "def later():\n    from .cli import app",
        "if TYPE_CHECKING:\n    from .cli import app",
    ],
)
def test_an_upward_import_is_seen(statement):
    sources = {"upweight.__init__": "from .cli import app", "upweight.cli": "", "upweight.types": statement}
    assert violations(sources) == ["upweight.types imports upweight.cli, which stands above it"]
    assert violations(sources | {"upweight.types": "import torch"}) == []


def test_an_upward_import_in_a_copy_of_the_package_is_seen():
    sources = read(PACKAGE)
    sources["upweight.errors"] += "\nfrom .cli import app\n"
    assert "upweight.errors imports upweight.cli.app, which stands above it" in violations(sources)


@pytest.mark.parametrize(
    ("importer", "statement", "target"),
    [
        ("upweight.solvers.cg", "from ..influence import Influence", "upweight.influence.__init__"),
        ("upweight.curvature.base", "from ..solvers import Exact", "upweight.solvers.__init__"),
        ("upweight.curvature.base", "from ..solvers.cg import Conjugate", "upweight.solvers.cg"),
    ],
)
def test_an_upward_import_between_packages_is_seen(importer, statement, target):
    names = ["upweight.solvers.__init__", "upweight.solvers.cg", "upweight.influence.__init__"]
    sources = dict.fromkeys([*names, "upweight.curvature.base"], "")
    assert violations(sources | {importer: statement}) == [
        f"{importer} imports {target}, which stands above it"
    ]


@pytest.mark.parametrize(
    "statement", ["import upweight", "from upweight import Scores", "from . import Scores"]
)
def test_importing_the_package_itself_is_seen(statement):
    found = violations({"upweight.__init__": "", "upweight.plots": statement})
    assert found == ["upweight.plots imports upweight itself: import the module that has the name"]


def test_a_module_without_a_level_is_seen():
    found = violations({"upweight.__init__": "", "upweight.novelty": ""})
    assert found == ["novelty has no level: add it to LEVELS in tests/contracts/test_imports.py"]


def test_neighbours_do_not_import_each_other():
    sources = {
        "upweight.network.problem": "",
        "upweight.trees.problem": "from ..network.problem import Problem",
    }
    assert violations(sources) == [
        "upweight.trees.problem imports upweight.network.problem, which stands beside it"
    ]


def test_a_package_may_import_its_own_modules_but_not_in_a_circle():
    sources = {
        "upweight.solvers.__init__": "from .cg import ConjugateGradient",
        "upweight.solvers.base": "from ..curvature.base import Hessian",
        "upweight.solvers.cg": "from . import base\nfrom .base import Solver",
        "upweight.curvature.base": "from ..types import Tensor",
        "upweight.types": "",
    }
    assert violations(sources) == []
    found = violations(sources | {"upweight.solvers.base": "from .cg import ConjugateGradient"})
    assert len(found) == 1
    assert found[0].startswith("imports in a circle: ")
