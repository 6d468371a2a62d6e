"""The application, its exit codes, and what it says on standard error."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from ..errors import InfluenceError
from ..runtime.process import rank
from ..runtime.progress import quiet, speaks
from ..runtime.terminal import say
from .options import Quiet

FAILED, BAD_INPUT, GATE = 1, 2, 3
"""Exit codes: no answer of the wanted accuracy; something given cannot be used; too many contradicted labels."""

P = ParamSpec("P")

app = typer.Typer(
    help="Explain a trained model by its training data, and check the explanation by retraining.",
    epilog="Exit codes: 0 answered; 1 no answer of the wanted accuracy; 2 something given cannot be used; "
    "3 more contradicted labels than --fail-over allows.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _tell_version(asked: bool) -> bool:
    if asked:
        from importlib.metadata import version as installed_version

        say(f"upweight {installed_version('upweight')}")
        raise typer.Exit
    return asked


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Explain a trained model by its training data, and check the explanation by retraining."""


def _warned(message: Warning | str, *_: object, **__: object) -> None:
    if speaks():
        say(f"Warning: {message}", err=True)


def answering(command: Callable[P, None]) -> Callable[..., None]:
    """The command, with its errors as one clear sentence and an exit code, and its warnings as one line each.

    It has the option --quiet besides its own. Of several processes (torchrun) the first one answers and warns; an error
    is said by every one that meets it.
    """

    @wraps(command)
    def answered(*args: P.args, **kwargs: P.kwargs) -> None:
        silent = bool(kwargs.pop("quiet", False))
        try:
            with warnings.catch_warnings(), quiet(silent), ExitStack() as stack:
                if rank() > 0:
                    stack.enter_context(redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                warnings.showwarning = _warned
                command(*args, **kwargs)
        except InfluenceError as error:
            say(f"Error: {error}", err=True)
            raise typer.Exit(FAILED) from None
        except (ValueError, TypeError, ImportError, OSError) as error:
            say(f"Error: {error}", err=True)
            raise typer.Exit(BAD_INPUT) from None

    said = inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet)
    signature = inspect.signature(command, eval_str=True)
    answered.__signature__ = signature.replace(parameters=[*signature.parameters.values(), said])  # type: ignore[attr-defined]
    answered.__annotations__ = {p.name: p.annotation for p in answered.__signature__.parameters.values()}  # type: ignore[attr-defined]
    return answered
