"""The server of the review: a small web application on this machine alone, for the one person who has its address."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..runtime.terminal import plain
from ..tables.reading import FileError
from .access import HEADERS, HOST, Guard, Keys
from .journal import JournalError
from .pages import Export, Pages
from .session import Session


def application(session: Session, export: Export, port: int, keys: Keys) -> Starlette:
    """The web application that reviews a session.

    Args:
        session: What is reviewed.
        export: Makes the corrected file: its name and its bytes.
        port: The port that it will be served on; requests for any other are refused.
        keys: The secrets that let a browser in.
    """
    pages = Pages(session, export)
    return Starlette(
        routes=[
            Route("/", pages.row),
            Route("/list", pages.rows),
            Route("/decide", pages.decide, methods=["POST"]),
            Route("/undo", pages.undo, methods=["POST"]),
            Route("/state", pages.state),
            Route("/export", pages.exported),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(Guard, port=port, keys=keys)],
        exception_handlers={FileError: _refused, JournalError: _stuck, Exception: _unforeseen},
    )


def _refused(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}.", 409)


def _stuck(request: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{plain(error)}.", 503)


def _unforeseen(request: Request, error: Exception) -> Response:
    """Starlette raises the error again after this answer: whoever started the server sees where it came from."""
    return PlainTextResponse(
        f"This could not be done ({type(error).__name__}: {plain(error)}). What was decided before is in the journal.",
        500,
        HEADERS,
    )


def serve(
    session: Session,
    export: Export,
    *,
    port: int,
    announce: Callable[[str], None],
    browser: bool,
) -> None:
    """The page is served until Ctrl-C.

    Args:
        session: What is reviewed; it is started already.
        export: Makes the corrected file: its name and its bytes.
        port: The port of this machine; 0 takes a free one.
        announce: Is told the address as soon as it can be reached.
        browser: Whether to open the address in the user's browser.

    Raises:
        OSError: The port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((HOST, port))
        listening.listen()  # who is told the address can connect at once, and waits until we answer
        port = listening.getsockname()[1]
        keys = Keys()
        address = f"http://{HOST}:{port}/?token={keys.token}"
        app = application(session, export, port, keys)
        announce(address)
        if browser:
            webbrowser.open(address)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        server.run(sockets=[listening])
