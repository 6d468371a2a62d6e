"""Imports go only downward (docs/design.md): this reads the import statements and fails on an upward one.

All import statements count, also those inside functions and under `if TYPE_CHECKING`.
"""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "upweight"

# Low to high. A module may import what stands on its own line or above it, and no two modules each other.
# A subpackage (`solvers`) stands here by its name.
LEVELS = (
    {"ahead", "types", "errors", "notebook", "_version", "tables"},
    {"distributed"},
    {"extremes", "progress", "vectors", "files", "groups", "rows", "design", "terms", "pretrained"},
    {
        "losses",
        "measures",
        "convolutions",
        "derivatives",
        "jacobians",
        "layers",
        "layered",
        "scales",
        "models",
        "training",
        "streams",
    },
    {"objective"},
    {
        "frozen",
        "vision",
        "problem",
        "linear",
        "reduced",
        "kernels",
        "readers",
        "optimum",
        "estimators",
        "pipelines",
    },
    {"checks"},
    {"factor", "curvature", "compression", "gathering", "ekfac", "nystrom"},
    {"solvers"},
    {"choices", "scores"},
    {"store"},
    {"influence", "removal", "enclosure"},
    {"verify", "uses", "evaluation"},
    {"plots", "report"},
    {"cli", "review", "__main__"},
)
LEVEL = {unit: level for level, units in enumerate(LEVELS) for unit in units}


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
    found += [f"{unit} has no level: add it to LEVELS in tests/test_imports.py" for unit in unlisted]
    for importer, source in inner.items():
        targets = {t for t in imported(source, importer, set(sources)) if t.partition(".")[0] == root}
        if targets & {root, top}:
            found.append(f"{importer} imports {root} itself: import the module that has the name")
        graph[importer] = targets & inner.keys()
        for target in sorted(graph[importer]):
            low, high = (LEVEL.get(name.split(".")[1], -1) for name in (importer, target))
            if 0 <= low < high:
                found.append(f"{importer} imports {target}, which stands above it")
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found.append(f"imports in a circle: {' <- '.join(error.args[1])}")
    return found


def test_imports_go_downward():
    assert violations(read(PACKAGE)) == []


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
    sources = {"upweight.__init__": "from .cli import app", "upweight.cli": "", "upweight.vectors": statement}
    assert violations(sources) == ["upweight.vectors imports upweight.cli, which stands above it"]
    assert violations(sources | {"upweight.vectors": "import torch"}) == []


def test_an_upward_import_in_a_copy_of_the_package_is_seen():
    sources = read(PACKAGE)
    sources["upweight.errors"] += "\nfrom .cli import app\n"
    sources.setdefault("upweight.cli", "")
    assert "upweight.errors imports upweight.cli.app, which stands above it" in violations(sources)


@pytest.mark.parametrize(
    ("importer", "statement", "target"),
    [
        ("upweight.solvers.cg", "from ..influence import Influence", "upweight.influence"),
        ("upweight.curvature", "from .solvers import Exact", "upweight.solvers.__init__"),
        ("upweight.curvature", "from .solvers.cg import ConjugateGradient", "upweight.solvers.cg"),
    ],
)
def test_an_upward_import_of_or_in_a_subpackage_is_seen(importer, statement, target):
    sources = dict.fromkeys(["upweight.solvers.__init__", "upweight.solvers.cg", "upweight.influence"], "")
    assert violations(sources | {importer: statement}) == [
        f"{importer} imports {target}, which stands above it"
    ]


@pytest.mark.parametrize(
    "statement", ["import upweight", "from upweight import Scores", "from . import Scores"]
)
def test_importing_the_package_itself_is_seen(statement):
    found = violations({"upweight.__init__": "", "upweight.verify": statement})
    assert found == ["upweight.verify imports upweight itself: import the module that has the name"]


def test_a_module_without_a_level_is_seen():
    found = violations({"upweight.__init__": "", "upweight.novelty": ""})
    assert found == ["novelty has no level: add it to LEVELS in tests/test_imports.py"]


def test_neighbours_may_import_but_not_in_a_circle():
    sources = {"upweight.problem": "", "upweight.linear": "from .problem import Problem"}
    assert violations(sources) == []
    found = violations(sources | {"upweight.problem": "from .linear import LinearProblem"})
    assert len(found) == 1
    assert found[0].startswith("imports in a circle: ")


def test_a_subpackage_may_import_its_own_modules():
    sources = {
        "upweight.solvers.__init__": "from .cg import ConjugateGradient",
        "upweight.solvers.base": "from ..curvature import Hessian",
        "upweight.solvers.cg": "from . import base\nfrom .base import Solver",
        "upweight.curvature": "from .types import Tensor",
        "upweight.types": "",
    }
    assert violations(sources) == []
