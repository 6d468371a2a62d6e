"""The libraries that benchmarks compare: a file each, found by its name.

A file here is named like the package that it measures and has a table `LIBRARIES`: name -> problem -> `Library`. A name
is that of the package, or begins with it and a hyphen. A new rival is a new file; see `base.py`.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.libraries.base import Library


def library(name: str, problem: str) -> Library:
    """The library of that name as it is asked about that problem."""
    package = name.partition("-")[0]
    return importlib.import_module(f"{__name__}.{package}").LIBRARIES[name][problem]


def catalogue() -> dict[str, dict[str, Library]]:
    """Every name, and how the library is asked about each problem."""
    found: dict[str, dict[str, Library]] = {}
    for module in pkgutil.iter_modules(__path__):
        found |= getattr(importlib.import_module(f"{__name__}.{module.name}"), "LIBRARIES", {})
    return found


def names(problem: str) -> list[str]:
    """Who can be asked about that problem, upweight first."""
    able = [name for name, problems in catalogue().items() if problem in problems]
    return sorted(able, key=lambda name: not name.startswith("upweight"))
