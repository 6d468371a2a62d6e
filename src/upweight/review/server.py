"""The page itself: a small web application on this machine alone, for the one person who has its address."""

from __future__ import annotations

import hmac
import secrets
import socket
import webbrowser
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from ..report import templates
from .journal import ACTIONS, Decision
from .session import Session

HOST = "127.0.0.1"
PER_PAGE = 50
Export = Callable[[], tuple[str, bytes]]
"""The name and the bytes of the corrected file."""
POLICY = (
    "default-src 'none'; img-src data:; style-src 'self'; script-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Keys:
    """Who may come in: the token in the address opens the page once, for a browser that then has a cookie.

    >>> keys = Keys()
    >>> keys.spend(keys.token), keys.spend("guess")
    (True, False)
    """

    def __init__(self) -> None:
        self.token, self.session = secrets.token_urlsafe(24), secrets.token_urlsafe(24)

    def spend(self, token: str) -> bool:
        """Whether this is the token; it is another one afterwards."""
        right = hmac.compare_digest(token.encode(), self.token.encode())
        if right:
            self.token = secrets.token_urlsafe(24)
        return right

    def known(self, cookie: str | None) -> bool:
        """Whether a browser was let in."""
        return cookie is not None and hmac.compare_digest(cookie.encode(), self.session.encode())


def application(session: Session, export: Export, port: int, keys: Keys) -> Starlette:
    """The review of a session on `port`."""
    origins = {f"http://{host}:{port}" for host in (HOST, "localhost")}
    cookie = f"upweight-{port}"
    pages = templates()

    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        """Only this machine's name, only a browser that was let in, and no request that another page sends."""
        if f"http://{request.headers.get('host')}" not in origins:
            response: Response = PlainTextResponse("This page answers on this machine alone.", 403)
        elif request.url.path == "/" and "token" in request.query_params:
            if keys.spend(request.query_params["token"]):
                response = RedirectResponse("/", 303)
                response.set_cookie(cookie, keys.session, httponly=True, samesite="strict")
            else:
                response = PlainTextResponse(
                    "This address was used already, or is wrong. Use the window in which it was opened, or start "
                    "upweight review again: no decision is lost.",
                    403,
                )
        elif not keys.known(request.cookies.get(cookie)):
            response = PlainTextResponse("Open the address that upweight review has printed.", 403)
        elif request.method != "GET" and request.headers.get("origin") not in origins:
            response = PlainTextResponse("Another page has sent this: refused.", 403)
        else:
            response = await answer(request)
        response.headers.update(HEADERS)
        return response

    def page(request: Request) -> Response:
        """The row that is asked for, or the next one."""
        asked = request.query_params.get("row", "")
        row = (
            int(asked)
            if asked.isdigit() and int(asked) < len(session.names)
            else next(session.waiting(), None)
        )
        return HTMLResponse(pages.get_template("review/page.html.j2").render(_shown(session, row)))

    def listed(request: Request) -> Response:
        """All rows, a page at a time, the most doubtful first."""
        number = request.query_params.get("page", "1")
        return HTMLResponse(
            pages.get_template("review/list.html.j2").render(
                _listed(session, int(number) if number.isdigit() else 1)
            )
        )

    async def decide(request: Request) -> Response:
        given = {name: values[-1] for name, values in parse_qs((await request.body()).decode()).items()}
        try:
            session.decide(Decision(int(given["row"]), given["action"], given.get("label")))
        except (KeyError, ValueError) as error:
            return PlainTextResponse(f"Not a decision: {error}", 400)
        return RedirectResponse("/", 303)

    def undo(request: Request) -> Response:
        taken = session.undo()
        return RedirectResponse("/" if taken is None else f"/?row={taken.row}", 303)

    def state(request: Request) -> Response:
        return JSONResponse(_state(session))

    def exported(request: Request) -> Response:
        name, content = export()
        return Response(
            content,
            media_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}"'},
        )

    return Starlette(
        routes=[
            Route("/", page),
            Route("/list", listed),
            Route("/decide", decide, methods=["POST"]),
            Route("/undo", undo, methods=["POST"]),
            Route("/state", state),
            Route("/export", exported),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=guard)],
    )


def _state(session: Session) -> dict[str, Any]:
    """How far the review is, and what the model makes of it."""
    done = session.journal.decisions()
    counts = {action: sum(d.action == action for d in done.values()) for action in ACTIONS}
    fit = session.fit
    return {
        "decided": len(done),
        "counts": counts,
        "contradicted": int((fit.ranking["label"] != fit.ranking["proposed label"]).sum()),
        "held": len(session.held),
        "first": session.first.accuracy,
        "accuracy": fit.accuracy,
        "current": fit.decisions == len(done),
        "trouble": session.trouble,
    }


def _shown(session: Session, row: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "file": session.asked.file.name,
        "state": _state(session),
        "labels": session.labels,
        "row": row,
    }
    if row is None:
        return found
    name = session.names[row]
    line = session.fit.ranking.loc[name].to_dict() if name in session.fit.ranking.index else {}
    example, helpful, harmful = session.evidence(row)
    return found | {
        "example": example,
        "places": {other.id: int(session.names.get_loc(other.id)) for other in [*helpful, *harmful]},
        "decision": session.journal.decisions().get(row),
        "proposed": str(line.get("proposed label", "")),
        "loss": line.get("loss without the row"),
        "gain": line.get("gain"),
        "groups": [("Rows that speak for its label", helpful), ("Rows that speak against it", harmful)],
    }


def _listed(session: Session, page: int) -> dict[str, Any]:
    ranking, done = session.fit.ranking, session.journal.decisions()
    pages = max(1, -(-len(ranking) // PER_PAGE))
    page = min(max(1, page), pages)
    part = ranking.iloc[(page - 1) * PER_PAGE : page * PER_PAGE]
    lines = [
        {"decision": done.get(line["row"]), **line}
        for line in part.rename_axis("name").reset_index().to_dict("records")
    ]
    return {
        "file": session.asked.file.name,
        "state": _state(session),
        "lines": lines,
        "page": page,
        "pages": pages,
        "id": session.asked.id,
    }


def serve(
    session: Session,
    export: Export,
    *,
    port: int = 0,
    announce: Callable[[str], None],
    browser: bool = True,
) -> None:
    """Serve the page until Ctrl-C. `announce` is told its address; port 0 takes a free one.

    Raises OSError where the port is taken.
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
