"""The review of a file: its journal, its page, and the corrected file."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import typer
import xxhash

from ..tables.fitted_file import Asked
from .app import phase


def reviewed(
    asked: Asked,
    *,
    held: float,
    seed: int,
    journal: Path | None,
    export: Path | None,
    exact: bool,
    port: int,
    browser: bool,
) -> None:
    """Serve the page until Ctrl-C, or write the corrected file."""
    try:
        from ..review.server import serve
    except ImportError as missing:
        raise ImportError(
            'the review page is served with starlette: pip install "upweight[review]"'
        ) from missing
    from ..review.export import corrected
    from ..review.journal import Journal
    from ..review.session import Session

    path = journal or asked.file.with_name(f"{asked.file.name}.review")
    decisions = Journal(path, asked.file.name, asked.target, _hash(asked.file))
    session = Session(asked, decisions, held=held, seed=seed)
    if export is not None:
        export.write_bytes(corrected(session, exact=exact)[1])
        typer.echo(str(export))
        return
    with phase(f"doubting {len(asked.raw):,} labels"):
        session.start()

    def announce(address: str) -> None:
        typer.echo(f"{address}\nDecisions are kept in {path}. Ctrl-C ends the page.", err=True)

    serve(session, partial(corrected, session, exact=exact), port=port, announce=announce, browser=browser)


def _hash(file: Path) -> str:
    """A hash of the file's bytes."""
    found = xxhash.xxh3_128()
    with file.open("rb") as bytes_:
        while part := bytes_.read(1 << 24):
            found.update(part)
    return found.hexdigest()
