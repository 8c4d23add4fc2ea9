"""Who may look: whoever shows the bandit server's token, in a form once or with every request."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from html import escape
from pathlib import Path
from string import Template
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

PAGE = Path(__file__).parents[1] / "static" / "login.html"
# A browser logs in again after so long.
SESSION_SECONDS = 7 * 24 * 3600
LONGEST_FORM = 4096
# Shown to everybody: that the process serves, the form, and what it is drawn with.
OPEN = frozenset({"/healthz", "/login", "/logout"})
# Where a login may lead: to our pages, and nowhere else.
PAGES = re.compile(r"/(compare|runs/[A-Za-z0-9._-]{1,64})?")
# What an address may carry to a page: its view, and the runs that are compared.
VIEW = re.compile(r"[A-Za-z0-9._~%&=+-]{0,2000}")


class Sessions:
    """Cookies that prove, without holding it, that their browser has shown the token. They outlive the process, and a
    new token ends them all."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def is_token(self, shown: str) -> bool:
        """In a time that tells nothing of the token."""
        return hmac.compare_digest(shown.encode(errors="replace"), self._token)

    def begin(self) -> str:
        """A new cookie's value."""
        until = f"{time.time() + SESSION_SECONDS:.0f}"
        return f"{until}.{self._seal(until)}"

    def holds(self, cookie: str) -> bool:
        """Whether the cookie is ours and not too old."""
        until, _, seal = cookie.partition(".")
        ours = hmac.compare_digest(seal.encode(errors="replace"), self._seal(until).encode())
        return ours and time.time() < float(until)

    def _seal(self, until: str) -> str:
        message = b"optima dashboard session until " + until.encode(errors="replace")
        return hmac.new(self._token, message, hashlib.sha256).hexdigest()


class Gate:
    """ASGI middleware: lets nobody in who has shown no token, or, where anyone may look, nobody who wants more."""

    def __init__(self, app: ASGIApp, sessions: Sessions, anyone_may_look: bool = False) -> None:
        self.app = app
        self._sessions = sessions
        self._anyone_may_look = anyone_may_look

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        known = self._knows(HTTPConnection(scope))
        scope.setdefault("state", {})["known"] = known
        looks = scope["method"] in ("GET", "HEAD")
        if known or _open(scope["path"]) or (looks and self._anyone_may_look and scope["path"] != "/metrics"):
            await self.app(scope, receive, send)
            return
        response: Response
        if looks and PAGES.fullmatch(scope["path"]):
            view = scope["query_string"].decode("latin-1")
            response = RedirectResponse(f"/login?next={quote(scope['path'] + (view and '?' + view), safe='')}", 303)
        else:
            sentence = "log in at /login with the bandit server's token, or send it as `Authorization: Bearer TOKEN`"
            response = JSONResponse({"detail": sentence}, 401, {"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _knows(self, connection: HTTPConnection) -> bool:
        scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return self._sessions.is_token(shown.strip())
        return self._sessions.holds(connection.cookies.get(_cookie(connection), ""))


def add_login(app: FastAPI, sessions: Sessions | None, anyone_may_look: bool = False) -> None:
    """The form, its end, and the gate. Without sessions, everybody may look and act."""

    @app.get("/api/session", include_in_schema=False)
    async def session(request: Request) -> dict[str, bool]:
        # `login`: there is such a thing here; `acts`: whoever asks may change runs.
        return {"login": sessions is not None, "acts": sessions is None or request.state.known}

    if sessions is None:
        return
    app.add_middleware(Gate, sessions=sessions, anyone_may_look=anyone_may_look)

    @app.get("/login", include_in_schema=False)
    async def form(request: Request) -> HTMLResponse:
        return _form(request.query_params.get("next", ""))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        fields = await _fields(request)
        if fields is None:
            return _form("", "That is not what this form sends.", 400)
        page = fields.get("next", "")
        if not sessions.is_token(fields.get("token", "").strip()):
            return _form(page, "That is not the bandit server's token.", 401)
        response = RedirectResponse(_page(page), 303)
        response.set_cookie(
            _cookie(request), sessions.begin(), max_age=SESSION_SECONDS, path="/", secure=_encrypted(request),
            httponly=True, samesite="strict",
        )  # fmt: skip
        return response

    @app.post("/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(_cookie(request), path="/", secure=_encrypted(request), httponly=True, samesite="strict")
        return response


async def _fields(request: Request) -> dict[str, str] | None:
    """A form's fields; None for what is no such form, or too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LONGEST_FORM:
            return None
    try:
        found = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        return None
    return {name: values[0] for name, values in found.items()}


def _form(page: str, message: str = "", status: int = 200) -> HTMLResponse:
    text = Template(PAGE.read_text(encoding="utf-8")).substitute(next=escape(_page(page)), message=message)
    return HTMLResponse(text, status, {"cache-control": "no-store"})


def _open(path: str) -> bool:
    return path in OPEN or path.startswith("/static/")


def _page(asked: str) -> str:
    path, _, view = asked.partition("?")
    return asked if PAGES.fullmatch(path) and VIEW.fullmatch(view) else "/"


def _encrypted(connection: HTTPConnection) -> bool:
    return connection.url.scheme == "https"


def _cookie(connection: HTTPConnection) -> str:
    # With this prefix a browser takes it over TLS alone, and from this very host.
    return "__Host-optima-session" if _encrypted(connection) else "optima-session"
