"""A folder of scripts as one command: `python -m experiments NAME`, `python -m benchmarks NAME`.

A script is a module with a function `main(argv)`; the first line of its docstring says what it answers.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path


def scripts(folder: Path) -> dict[str, str]:
    """Names of the folder's scripts and what each answers. They are read, not imported: torch takes seconds."""
    found = {}
    for path in sorted(folder.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(part, ast.FunctionDef) and part.name == "main" for part in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found


def run(folder: Path, argv: Sequence[str]) -> None:
    """List the folder's scripts, or run the one that `argv` begins with on the rest of `argv`."""
    known, (name, *rest) = scripts(folder), argv or ["--help"]
    if name in ("-h", "--help"):
        print(f"python -m {folder.name} NAME [--help]\n")
        for script, answers in known.items():
            print(f"{script:22} {answers}")
        return
    if name not in known:
        print(f"no {name!r} here; there are {', '.join(known)}", file=sys.stderr)
        raise SystemExit(2)
    importlib.import_module(f"{folder.name}.{name}").main(rest)


def parser(name: str, doc: str | None) -> argparse.ArgumentParser:
    """The parser of a script, made of its `__name__` and its `__doc__`."""
    return argparse.ArgumentParser(
        prog=f"python -m {name.replace('.', ' ')}",
        description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
