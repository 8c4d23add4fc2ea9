"""Login with the bandit server's token: in a form, which sets a cookie, or in the header of every request."""

from __future__ import annotations

import hashlib
import hmac
import re
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from itsdangerous import BadSignature, TimestampSigner
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).parents[1] / "static" / "login.html"
# A browser must log in again after this many seconds.
SESSION_SECONDS = 7 * 24 * 3600
MAX_FORM_BYTES = 4096
# Open to everybody: the health check, the form, and (under /static/) what the form is drawn with.
OPEN_PATHS = frozenset({"/healthz", "/login", "/logout"})
# A login may redirect to these pages only, with this query: the page's view and the runs compared.
PAGE_PATH = re.compile(r"/(compare|runs/[A-Za-z0-9._-]{1,64})?")
PAGE_QUERY = re.compile(r"[A-Za-z0-9._~%&=+-]{0,2000}")


class Sessions:
    """Session cookies, signed with the token and holding nothing but the time of the login.

    Cookies stay valid when the process restarts. A new token invalidates all of them.

    Attributes:
        seconds: How long a cookie is valid.
    """

    def __init__(self, token: str, seconds: int = SESSION_SECONDS) -> None:
        self.seconds = seconds
        self._token = token.encode()
        self._signer = TimestampSigner(
            self._token, salt="optima dashboard session", key_derivation="hmac", digest_method=hashlib.sha256
        )

    def is_token(self, candidate: str) -> bool:
        """Return whether this is the token, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(candidate.encode(errors="replace"), self._token)

    def create_cookie(self) -> str:
        """Return the value of a new cookie."""
        return self._signer.sign("session").decode()

    def is_valid(self, cookie: str) -> bool:
        """Return whether the cookie was signed with this token and has not expired."""
        try:
            self._signer.unsign(cookie.encode(errors="replace"), max_age=self.seconds)
        except BadSignature:  # SignatureExpired is one, too.
            return False
        return True


class LoginRequired:
    """ASGI middleware that answers requests without a valid token or cookie with the login page or 401.

    Args:
        app: The application behind it.
        sessions: Checks tokens and cookies.
        anyone_may_look: GET and HEAD need no login, except for /metrics.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, anyone_may_look: bool = False) -> None:
        self.app = app
        self._sessions = sessions
        self._anyone_may_look = anyone_may_look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        logged_in = self._is_logged_in(HTTPConnection(scope))
        scope.setdefault("state", {})["logged_in"] = logged_in
        reads = scope["method"] in ("GET", "HEAD")
        readable = reads and self._anyone_may_look and scope["path"] != "/metrics"
        if logged_in or readable or _is_open(scope["path"]):
            await self.app(scope, receive, send)
            return
        response: Response
        if reads and PAGE_PATH.fullmatch(scope["path"]):
            query = scope["query_string"].decode("latin-1")
            response = RedirectResponse(f"/login?next={quote(scope['path'] + (query and '?' + query), safe='')}", 303)
        else:
            detail = "log in at /login with the bandit server's token, or send it as `Authorization: Bearer TOKEN`"
            response = JSONResponse({"detail": detail}, 401, {"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _is_logged_in(self, connection: HTTPConnection) -> bool:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._sessions.is_token(token.strip())
        return self._sessions.is_valid(connection.cookies.get(_cookie_name(connection), ""))


def add_login(app: FastAPI, sessions: Sessions | None, anyone_may_look: bool = False) -> None:
    """Add the login form, the logout and the middleware. Without sessions everybody may look and act."""

    @app.get("/api/session", include_in_schema=False)
    async def session(request: Request) -> dict[str, bool]:
        # `login`: there is a login; `acts`: this browser may change runs.
        return {"login": sessions is not None, "acts": sessions is None or request.state.logged_in}

    if sessions is None:
        return
    app.add_middleware(LoginRequired, sessions=sessions, anyone_may_look=anyone_may_look)

    @app.get("/login", include_in_schema=False)
    async def show_form(request: Request) -> HTMLResponse:
        return _render_form(request.query_params.get("next", ""))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        fields = await _read_fields(request)
        if fields is None:
            return _render_form("", "The form was not readable. Please try again.", 400)
        page = fields.get("next", "")
        if not sessions.is_token(fields.get("token", "").strip()):
            return _render_form(page, "This is not the bandit server's token.", 401)
        response = RedirectResponse(_safe_page(page), 303)
        response.set_cookie(
            _cookie_name(request), sessions.create_cookie(), max_age=sessions.seconds, path="/",
            secure=_is_https(request), httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(
            _cookie_name(request), path="/", secure=_is_https(request), httponly=True, samesite="strict"
        )
        return response


async def _read_fields(request: Request) -> dict[str, str] | None:
    """Return the fields of a form, or None if the body is too long or not a form."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    try:
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        return None
    return {name: values[0] for name, values in fields.items()}


def _render_form(page: str, message: str = "", status: int = 200) -> HTMLResponse:
    text = Template(PAGE.read_text(encoding="utf-8")).substitute(next=escape(_safe_page(page)), message=message)
    return HTMLResponse(text, status, {"cache-control": "no-store"})


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith("/static/")


def _safe_page(address: str) -> str:
    """Return the address if it is one of our pages, else the list of runs."""
    path, _, query = address.partition("?")
    return address if PAGE_PATH.fullmatch(path) and PAGE_QUERY.fullmatch(query) else "/"


def _is_https(connection: HTTPConnection) -> bool:
    return connection.url.scheme == "https"


def _cookie_name(connection: HTTPConnection) -> str:
    # With this prefix a browser accepts the cookie over TLS only, and only from this host.
    return "__Host-optima-session" if _is_https(connection) else "optima-session"
