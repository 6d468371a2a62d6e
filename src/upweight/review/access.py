"""Who may use the page: this machine alone, and the one browser that has its address."""

from __future__ import annotations

import hmac
import secrets

from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp

HOST = "127.0.0.1"
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
"""What every answer says about itself to the browser."""


class Keys:
    """The secrets of one server: a token in the address that opens the page once, and the cookie that it is traded for.

    >>> keys = Keys()
    >>> keys.spend(keys.token), keys.spend("guess")
    (True, False)
    """

    def __init__(self) -> None:
        self.token, self.session = secrets.token_urlsafe(24), secrets.token_urlsafe(24)

    def spend(self, token: str) -> bool:
        """Whether this is the token; if it is, it is another one afterwards."""
        right = hmac.compare_digest(token.encode(), self.token.encode())
        if right:
            self.token = secrets.token_urlsafe(24)
        return right

    def known(self, cookie: str | None) -> bool:
        """Whether a browser with this cookie was let in."""
        return cookie is not None and hmac.compare_digest(cookie.encode(), self.session.encode())


class Guard(BaseHTTPMiddleware):
    """What stands before the pages: only this machine's name, only a browser that was let in, no other page's requests.

    Args:
        app: The pages.
        port: The port that they are served on.
        keys: The secrets that let a browser in.
    """

    def __init__(self, app: ASGIApp, port: int, keys: Keys) -> None:
        super().__init__(app)
        self.keys = keys
        self.cookie = f"upweight-{port}"
        self.origins = {f"http://{host}:{port}" for host in (HOST, "localhost")}

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        """The answer to a request, of the pages or of the guard, with the headers that all answers have."""
        response = self._stopped(request) or await call_next(request)
        response.headers.update(HEADERS)
        return response

    def _stopped(self, request: Request) -> Response | None:
        """The guard's own answer; None for a request that may pass."""
        if f"http://{request.headers.get('host')}" not in self.origins:
            return PlainTextResponse("This page answers on this machine alone.", 403)
        if request.url.path == "/" and "token" in request.query_params:
            return self._let_in(request.query_params["token"])
        if not self.keys.known(request.cookies.get(self.cookie)):
            return PlainTextResponse("Open the address that upweight review has printed.", 403)
        if request.method != "GET" and request.headers.get("origin") not in self.origins:
            return PlainTextResponse("Another page has sent this: refused.", 403)
        return None

    def _let_in(self, token: str) -> Response:
        if not self.keys.spend(token):
            return PlainTextResponse(
                "This address was used already, or is wrong. Use the window in which it was opened, or start "
                "upweight review again: no decision is lost.",
                403,
            )
        response = RedirectResponse("/", 303)
        response.set_cookie(self.cookie, self.keys.session, httponly=True, samesite="strict")
        return response
