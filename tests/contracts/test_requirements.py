"""An extra that a page names is enough for what stands on that page."""

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.lowest import lowest

from .test_docs import PAGES, ROOT, blocks

EXTRA = re.compile(r"upweight\[(\w+)\]|[Ee]xtra `(\w+)`")
"""Where a page names an extra."""


def imported(page: Path) -> set[str]:
    """The packages, as they are installed, that the Python of a page imports."""
    trees = [ast.parse(block) for kind, block in blocks(page) if kind == "python"]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    tops = {module.partition(".")[0] for module in modules} - {*sys.stdlib_module_names, "upweight"}
    names = packages_distributions()
    return {name.lower() for top in tops for name in names[top]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_extras_of_a_page_bring_what_it_imports(page: Path):
    project = pytest.importorskip("tomllib").loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    optional, brought = project["optional-dependencies"], list(project["dependencies"])
    extras = ["".join(found) for found in EXTRA.findall(page.read_text(encoding="utf-8"))]
    for extra in extras:
        for line in optional[extra]:
            inner = re.match(r"upweight\[([\w,]+)\]", line)
            extras += inner[1].split(",") if inner else []
            brought.append(line)
    assert imported(page) <= {re.match(r"[\w.-]+", line)[0].lower() for line in brought}  # type: ignore[index]


def test_lowest_versions_are_those_of_the_core_and_the_extras_that_are_asked_for():
    lines = ["a<3,>=1.2", "b[c]>=2; extra == 'x'", "d>=4; extra == 'y'", "e; extra == 'x'"]
    assert dict(lowest(lines, ["x"])) == {"a": "1.2", "b": "2"}
    assert dict(lowest(lines, [])) == {"a": "1.2"}
