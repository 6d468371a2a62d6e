"""Figures of the source tree, read from its syntax: `python -m tests.contracts.structure` prints them.

With `--places` each place that counts stands above the figures. `test_structure.py` says which of them are allowed.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import NamedTuple, TypeAlias

from .test_imports import PACKAGE, STILL, read, violations

TESTS = PACKAGE.parents[1] / "tests"
FILE, BODY = 400, 60
"""The most lines of a file, and of a function's body."""
AWKWARD = ("The same", "Of ", "Those", "Its ", "As of", "As `")
"""Beginnings of a docstring that leave a reader without its subject."""
COMMANDS = ("answering", "asks", "app.command")
"""What makes a command of a function: its parameters are explained by the help of its options."""

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(node: ast.AST) -> str:
    """`a.b.c` of a chain of names, else ""."""
    if isinstance(node, ast.Attribute):
        base = name_of(node.value)
        return f"{base}.{node.attr}" if base else ""
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class Definition:
    """A function or class of a module or of a class (`inside`), by its dotted path."""

    path: str
    module: str
    node: Function | ast.ClassDef
    inside: ast.ClassDef | None

    @property
    def public(self) -> bool:
        """Whether no part of the path begins with an underscore."""
        return not any(part.startswith("_") for part in self.path.split("."))

    @property
    def docstring(self) -> str:
        """The docstring without its indentation, or "" where it is inherited or missing."""
        return ast.get_docstring(self.node) or ""

    @property
    def decorators(self) -> list[str]:
        """The names of all decorators, called or not."""
        return [
            name_of(d.func if isinstance(d, ast.Call) else d)
            for d in getattr(self.node, "decorator_list", [])
        ]

    @property
    def parameters(self) -> list[str]:
        """The names of a function's parameters, less `self` or `cls`."""
        assert not isinstance(self.node, ast.ClassDef)
        args = self.node.args
        every = (*args.posonlyargs, *args.args, args.vararg, *args.kwonlyargs, args.kwarg)
        names = [arg.arg for arg in every if arg is not None]
        return names[1:] if self.inside and "staticmethod" not in self.decorators else names

    @property
    def body_lines(self) -> int:
        """The number of lines of the body, without the docstring, with the functions inside."""
        body = self.node.body[1:] if self.docstring else self.node.body
        if not body:
            return 0
        first = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))])
        return (body[-1].end_lineno or first) - first + 1


class Tree:
    """What the modules of a package define, and what the names in them stand for.

    `sources` holds the text of each module by its dotted name, as `test_imports.read` returns it.
    """

    def __init__(self, sources: dict[str, str]) -> None:
        self.sources = sources
        self.modules = {name.removesuffix(".__init__"): ast.parse(text) for name, text in sources.items()}

    @cached_property
    def definitions(self) -> list[Definition]:
        """All functions and classes but those inside functions."""
        return [found for name, module in self.modules.items() for found in _defined(name, name, module)]

    @cached_property
    def classes(self) -> dict[str, Definition]:
        """Every class by its dotted path."""
        return {d.path: d for d in self.definitions if isinstance(d.node, ast.ClassDef)}

    @cached_property
    def functions(self) -> dict[str, Definition]:
        """Every function and method by its dotted path."""
        return {d.path: d for d in self.definitions if not isinstance(d.node, ast.ClassDef)}

    @property
    def documented(self) -> list[Definition]:
        """What is public and has a docstring of its own; an override without one has its base's."""
        return [d for d in self.definitions if d.public and d.docstring]

    @cached_property
    def names(self) -> dict[str, dict[str, str]]:
        """For each module: the dotted paths behind the names that it imports, defines or gives to other names."""
        found: dict[str, dict[str, str]] = {}
        for name, module in self.modules.items():
            names = found[name] = {}
            for node in ast.walk(module):
                if isinstance(node, ast.ImportFrom):
                    package = f"{name}.__init__" if f"{name}.__init__" in self.sources else name
                    above = package.split(".")[: -node.level] if node.level else []
                    base = ".".join([*above, node.module] if node.module else above)
                    names |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
            names |= {node.name: f"{name}.{node.name}" for node in module.body if hasattr(node, "name")}
        return found

    def resolve(self, module: str, name: str) -> str:
        """The dotted path of what `name` (or `a.b`) means in `module`, also where a module only passes it on."""
        first, _, rest = name.partition(".")
        path = ".".join(filter(None, [self.names.get(module, {}).get(first, first), rest]))
        home, _, last = path.rpartition(".")
        passed = self.names.get(home, {}).get(last, path)
        return path if passed == path else self.resolve(home, last)

    def own_classes(self, module: str, node: ast.AST) -> list[str]:
        """The package's own classes that `node` names: alone, in a union, in a tuple, in a constant of the module."""
        found: list[str] = []
        for part in ast.walk(node):
            if name := name_of(part):
                path = self.resolve(module, name)
                found += [path] if path in self.classes else self._constant(module, name)
        return list(dict.fromkeys(found))

    def _constant(self, module: str, name: str) -> list[str]:
        """The own classes in the tuple that a module calls `name`."""
        for node in self.modules[module].body:
            if isinstance(node, ast.Assign) and name in map(name_of, node.targets):
                return self.own_classes(module, node.value) if isinstance(node.value, ast.Tuple) else []
        return []

    def nodes(self) -> Iterator[tuple[str, ast.AST]]:
        """Every node of every module, with the module's name."""
        for name, module in self.modules.items():
            for node in ast.walk(module):
                yield name, node


def _defined(
    path: str, module: str, node: ast.AST, inside: ast.ClassDef | None = None
) -> Iterator[Definition]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield Definition(f"{path}.{child.name}", module, child, inside)
        if isinstance(child, ast.ClassDef):
            yield from _defined(f"{path}.{child.name}", module, child, child)
        elif isinstance(child, (ast.If, ast.Try, ast.With)):
            yield from _defined(path, module, child, inside)


def _place(module: str, node: ast.AST, what: str) -> tuple[str, int, str]:
    return module, getattr(node, "lineno", 0), what


def _told(places: Iterable[tuple[str, int, str]]) -> list[str]:
    return [f"{module}:{line} {what}" for module, line, what in sorted(places)]


# -- what is measured ----------------------------------------------------------------------------------------------


def at_the_root(tree: Tree) -> list[str]:
    """The modules that lie in the package's own folder, its `__init__` included."""
    return [name for name in tree.sources if name.count(".") == 1]


def class_checks(tree: Tree) -> list[str]:
    """Where an object is asked whether it is of a class of ours: one place a call, however many classes it names."""
    found = []
    for module, node in tree.nodes():
        asked: list[ast.expr] = []
        if isinstance(node, ast.Call) and name_of(node.func) in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and isinstance(node.left, ast.Call):
            asked = node.comparators if name_of(node.left.func) == "type" else []
        classes = [path for part in asked for path in tree.own_classes(module, part)]
        if classes:
            found.append(_place(module, node, ", ".join(path.rpartition(".")[2] for path in classes)))
    return _told(found)


def own_private_names(tree: Tree) -> set[str]:
    """The names `_x` that the package gives to something of its own: a definition, a field, an attribute of self."""
    found = {d.path.rpartition(".")[2] for d in tree.definitions}
    for parent in (*tree.modules.values(), *(d.node for d in tree.classes.values())):
        for line in parent.body:
            targets = line.targets if isinstance(line, ast.Assign) else [getattr(line, "target", line)]
            found |= {name_of(target) for target in targets}
    for _, node in tree.nodes():
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and name_of(node.value) == "self"
        ):
            found.add(node.attr)
    return {name for name in found if name.startswith("_") and not name.endswith("__")}


def private_accesses(tree: Tree) -> list[str]:
    """Where a private name of ours is used of something else than self, cls or super(), or is imported."""
    private = own_private_names(tree)
    found = []
    for module, node in tree.nodes():
        if isinstance(node, ast.Attribute):
            of, names = ast.unparse(node.value), [node.attr]
        elif isinstance(node, ast.Call) and name_of(node.func) in ("getattr", "setattr", "hasattr"):
            of, names = ast.unparse(node.args[0]), [getattr(node.args[1], "value", "")]
        elif isinstance(node, ast.ImportFrom):
            of, names = node.module or ".", [alias.name for alias in node.names]
        else:
            continue
        if of not in ("self", "cls") and not of.startswith("super("):
            found += [_place(module, node, f"{of}.{name}") for name in names if name in private]
    return _told(found)


def long_files(tree: Tree) -> dict[str, int]:
    """The modules of more than 400 lines."""
    lengths = {name: len(text.splitlines()) for name, text in tree.sources.items()}
    return {name: length for name, length in lengths.items() if length > FILE}


def long_bodies(tree: Tree) -> dict[str, int]:
    """The functions whose body has more than 60 lines."""
    return {path: d.body_lines for path, d in tree.functions.items() if d.body_lines > BODY}


def with_many_parameters(tree: Tree) -> list[Definition]:
    """The documented functions and methods with more than two parameters; commands have help in place of them."""
    return [
        d
        for d in tree.documented
        if not isinstance(d.node, ast.ClassDef)
        and len(d.parameters) > 2
        and not {*COMMANDS} & {*d.decorators}
    ]


def without_args(tree: Tree) -> list[str]:
    """The functions with more than two parameters whose docstring has no `Args:` block."""
    return [d.path for d in with_many_parameters(tree) if "\nArgs:\n" not in d.docstring]


def median_words(tree: Tree) -> float:
    """The median number of words of the docstrings of public functions, methods and classes."""
    return median(len(d.docstring.split()) for d in tree.documented)


def awkward_beginnings(tree: Tree) -> list[str]:
    """The modules, classes and functions whose docstring begins without its subject."""
    texts = {name: ast.get_docstring(module) or "" for name, module in tree.modules.items()}
    texts |= {d.path: d.docstring for d in tree.definitions}
    return [path for path, text in texts.items() if text.startswith(AWKWARD)]


def returned_types(tree: Tree, roots: Iterable[str]) -> dict[str, str]:
    """The public classes of ours that a user gets from `roots`, and from what these give: class -> who gives it.

    A function gives what its return annotation names, a class what its public methods, properties and fields name.
    """
    found: dict[str, str] = {}
    todo = [*roots]
    while todo:
        for giver, module, annotation in _given(tree, todo.pop(0)):
            for path in tree.own_classes(module, annotation):
                if path not in found and tree.classes[path].public:
                    found[path] = giver
                    todo.append(path)
    return found


def _given(tree: Tree, path: str) -> Iterator[tuple[str, str, ast.expr]]:
    """The annotations of what `path` gives: who gives it, in which module, the annotation."""
    if path in tree.functions:
        function = tree.functions[path].node
        if not isinstance(function, ast.ClassDef) and function.returns is not None:
            yield path, tree.functions[path].module, function.returns
        return
    if path not in tree.classes:
        return
    module, node = tree.classes[path].module, tree.classes[path].node
    assert isinstance(node, ast.ClassDef)
    for member in node.body:
        if isinstance(member, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not member.name.startswith("_") or member.name == "__call__":
                yield from _given(tree, f"{path}.{member.name}")
        elif isinstance(member, ast.AnnAssign) and not name_of(member.target).startswith("_"):
            yield f"{path}.{name_of(member.target)}", module, member.annotation
    for base in node.bases:
        for own in tree.own_classes(module, base):
            yield from _given(tree, own)


# -- the table -----------------------------------------------------------------------------------------------------


class Figure(NamedTuple):
    """What is measured, what it is, what it should be, and the places that count."""

    what: str
    value: str
    aim: str = ""
    places: Sequence[str] = ()


def figures(tree: Tree, test_lines: int) -> list[Figure]:
    """All figures of a package whose tests have so many lines."""
    lines = sum(len(text.splitlines()) for text in tree.sources.values())
    root, checks, accesses = at_the_root(tree), class_checks(tree), private_accesses(tree)
    upward = [*violations(tree.sources), *(f"{low} imports {high}" for low, high in sorted(STILL))]
    files, bodies, awkward = long_files(tree), long_bodies(tree), awkward_beginnings(tree)
    many, bare = with_many_parameters(tree), without_args(tree)
    longest = max(len(text.splitlines()) for text in tree.sources.values())
    longest_body = max(d.body_lines for d in tree.functions.values())
    return [
        Figure("modules at the root / in all", f"{len(root)} / {len(tree.sources)}", "<= 14", root),
        Figure("imports that do not go downward", f"{len(upward)}", "0", upward),
        Figure("checks for classes of ours", f"{len(checks)}", "", checks),
        Figure("... per 1,000 lines", f"{1000 * len(checks) / lines:.2f}", "<= 2.5"),
        Figure("private members of other objects", f"{len(accesses)}", "0", accesses),
        Figure("longest file", f"{longest}", f"<= {FILE}", [f"{k} {v}" for k, v in files.items()]),
        Figure("longest body", f"{longest_body}", f"<= {BODY}", [f"{k} {v}" for k, v in bodies.items()]),
        Figure("without Args: / with three parameters or more", f"{len(bare)} / {len(many)}", "0", bare),
        Figure("... share with Args:", f"{1 - len(bare) / max(1, len(many)):.0%}", "100%"),
        Figure("median words of a public docstring", f"{median_words(tree):g}", ">= 30"),
        Figure("docstrings that begin without their subject", f"{len(awkward)}", "0", awkward),
        Figure("lines of tests / of source", f"{test_lines} / {lines}"),
        Figure("... share", f"{test_lines / lines:.2f}", ">= 0.8"),
    ]


def main(places: bool) -> None:
    """Print the figures of the package, and before them the places."""
    test_lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in TESTS.rglob("*.py"))
    found = figures(Tree(read(PACKAGE)), test_lines)
    for figure in found if places else []:
        print(f"{figure.what}:", *figure.places, sep="\n    ", end="\n\n")
    for figure in found:
        print(f"{figure.what:48}{figure.value:>16}   {figure.aim}")


if __name__ == "__main__":
    main(places="--places" in sys.argv)
