"""Every public method is documented, by itself or by what it overrides (ruff's D102 knows only the first)."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator

import upweight


def undocumented(cls: type) -> Iterator[str]:
    """The public methods and properties that `cls` defines and for which nobody up its bases has a docstring."""
    for name, member in vars(cls).items():
        if name.startswith("_") or not (inspect.isroutine(member) or isinstance(member, property)):
            continue
        if not any(getattr(vars(base).get(name), "__doc__", None) for base in cls.__mro__):
            yield f"{cls.__module__}.{cls.__qualname__}.{name}"


def test_public_methods_have_docstrings():
    found = pkgutil.walk_packages(upweight.__path__, "upweight.")
    modules = [importlib.import_module(module.name) for module in found if "__main__" not in module.name]
    classes = {
        cls
        for module in modules
        for cls in vars(module).values()
        if inspect.isclass(cls) and cls.__module__ == module.__name__ and not cls.__name__.startswith("_")
    }
    assert sorted(line for cls in classes for line in undocumented(cls)) == []


def test_a_missing_docstring_is_seen_and_an_inherited_one_counts():
    class Base:
        def told(self) -> None:
            """Told."""

    class Child(Base):
        def told(self) -> None: ...

        def silent(self) -> None: ...

        @property
        def quiet(self) -> int:
            return 1

    assert [line.rpartition(".")[2] for line in undocumented(Child)] == ["silent", "quiet"]
