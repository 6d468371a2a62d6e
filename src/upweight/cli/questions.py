"""Commands about a user's own file: each is a function that gets the file with its model, and its own options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.paths import not_there
from ..runtime.progress import phase
from .app import answering
from .options import (
    Booster,
    Category,
    Date,
    Drop,
    DropMissing,
    Encoding,
    File,
    Id,
    Image,
    Model,
    Number,
    Problem,
    Separator,
    Sheet,
    Target,
    Text,
    Trust,
)
from .show import format_of

if TYPE_CHECKING:
    from ..tables.fitted_file import FittedFile


def _read(
    file: File,
    target: Target,
    model: Model = None,
    booster: Booster = None,
    trust: Trust = None,
    problem: Problem = None,
    text: Text = None,
    image: Image = None,
    category: Category = None,
    number: Number = None,
    date: Date = None,
    drop: Drop = None,
    id: Id = None,
    drop_missing: DropMissing = False,
    encoding: Encoding = "utf-8",
    separator: Separator = None,
    sheet: Sheet = None,
    plain: bool = False,
) -> FittedFile:
    """The file with its model, as the shared options say; typer gives None where an option is not used.

    `plain` is no option: it is what the command says.
    """
    with phase("loading"):
        from ..tables.fitted_file import FittedFile

    return FittedFile.of(
        file,
        target,
        model=model,
        booster=None if booster is None else booster.value,
        trust=trust or (),
        problem=problem,
        text=text or (),
        image=image or (),
        category=category or (),
        number=number or (),
        date=date or (),
        drop=drop or (),
        id=id,
        drop_missing=drop_missing,
        encoding=encoding,
        separator=separator,
        sheet=sheet,
        plain=plain,
    )


def _check_paths(options: Mapping[str, object]) -> None:
    """Files that options name must be there, "-" apart (standard input), and tables go where they can be written.

    Nothing has been loaded yet: what fails here would otherwise fail after the work.
    """
    for name in ("file", "test") if options.get("problem") else ("file", "test", "model"):
        path = options.get(name)
        if isinstance(path, Path) and path != Path("-") and (trouble := not_there(path)):
            raise ValueError(trouble)
    if "format" in options:
        format_of(options["format"], options.get("out"))  # type: ignore[arg-type]


def asks(
    *, without: tuple[str, ...] = (), plain: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that makes a command of a function whose first argument is the file with its model.

    The command has the function's own options, and after them those that say how the file is read, except those that
    it does `without`. Errors become one sentence and an exit code. A `plain` command fits a regression of its own to
    the columns as they are: nothing is said of another model.
    """

    def command(question: Callable[..., None]) -> Callable[..., None]:
        shared, own = (
            [
                p.replace(kind=p.KEYWORD_ONLY)
                for p in inspect.signature(
                    function, locals={"FittedFile": Any}, eval_str=True
                ).parameters.values()
            ]
            for function in (_read, question)
        )
        file, target, *reading = (p for p in shared if p.name not in (*without, "plain"))
        names = [p.name for p in (file, target, *reading)]

        def asked(**options: object) -> None:
            _check_paths(options)
            read = {name: options.pop(name) for name in names}
            question(_read(plain=plain, **read), **options)  # type: ignore[arg-type]

        asked.__name__, asked.__doc__ = question.__name__, question.__doc__
        parameters = [file, target, *own[1:], *reading]
        asked.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        asked.__annotations__ = {p.name: p.annotation for p in parameters}
        return answering(asked)

    return command
