"""The dashboard as an ASGI application.

    uvicorn.Server(uvicorn.Config(create_app("127.0.0.1:50051"), port=8080, timeout_graceful_shutdown=1))

Give uvicorn a `timeout_graceful_shutdown`: an open page holds its event stream for as long as it is looked at, and
uvicorn waits for streams without end by default.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
from fastapi import FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from starlette.types import Receive, Scope, Send

from bandit_server.dashboard.feeds import Hub
from bandit_server.dashboard.headers import SecurityHeaders
from bandit_server.dashboard.login import Sessions, add_login
from bandit_server.dashboard.scrape import add_metrics
from bandit_server.dashboard.stream import Feed
from bandit_server.dashboard.upstream import Upstream

STATIC = Path(__file__).parent / "static"
# Seconds a JSON request waits for a server that has not been heard yet.
PATIENCE = 5.0

Name = Annotated[str, InPath(pattern=r"^[A-Za-z0-9._-]{1,64}$", description="The run's name.")]


def create_app(
    server_address: str,
    token: str | None = None,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    target: str | None = None,
    metrics: CollectorRegistry | None = None,
) -> FastAPI:
    """The dashboard of the bandit server at `server_address` (host:port).

    Nothing is called before the application starts, and it starts and stays up without the server.

    Args:
        server_address: As it is shown.
        token: Shown to that server; browsers must log in with it, too. None: everybody may look.
        credentials: For a server with TLS.
        target: Where gRPC finds the server, if that is not its address.
        metrics: Served at /metrics.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = Hub(Upstream(server_address, token, credentials, target))
        yield
        await app.state.hub.close()

    # FastAPI's own pages of documentation load scripts from elsewhere; the description itself is served.
    app = FastAPI(
        title="OPTIMA dashboard",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    add_login(app, Sessions(token) if token else None)
    app.add_middleware(SecurityHeaders)
    if metrics is not None:
        add_metrics(app, metrics)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def runs_page() -> FileResponse:
        return FileResponse(STATIC / "runs.html")

    @app.get("/runs/{run}", include_in_schema=False)
    async def run_page(run: Name) -> FileResponse:
        return FileResponse(STATIC / "run.html")

    @app.get("/api/runs")
    async def runs(request: Request) -> dict[str, Any]:
        """All runs, newest first: what the first page shows."""
        return await _now(_hub(request).runs())

    @app.get("/api/runs/{run}", responses={404: {"description": "No such run."}})
    async def run(request: Request, run: Name) -> dict[str, Any]:
        """One run, thinned to about 2,000 points a line; extremes and gaps are kept."""
        return await _now(_hub(request).run(run))

    @app.get("/events/runs", include_in_schema=False)
    async def runs_events(request: Request) -> EventStream:
        return _events(_hub(request).runs)

    @app.get("/events/runs/{run}", include_in_schema=False)
    async def run_events(request: Request, run: Name) -> EventStream:
        return _events(lambda: _hub(request).run(run))

    @app.get("/healthz")
    async def healthz(request: Request) -> dict[str, Any]:
        """200 while this process serves, whatever the bandit server does; `bandit_server` says what that is."""
        try:
            await _hub(request).upstream.ping()
        except grpc.aio.AioRpcError as error:
            return {"status": "ok", "bandit_server": "away", "reason": error.code().name}
        return {"status": "ok", "bandit_server": "reachable"}

    return app


def _hub(request: Request) -> Hub:
    hub: Hub = request.app.state.hub
    return hub


async def _now(feed: Feed) -> dict[str, Any]:
    """What a feed shows at this moment. 404: no such run. 503: nothing is known, as the server is away."""
    feed.join()
    try:
        await feed.wait_ready(PATIENCE)
        if not feed.ready:
            missing = feed.status.state == "missing"
            raise HTTPException(404 if missing else 503, feed.status.reason or "the bandit server does not answer")
        payload, _, _ = feed.render(None)
        return {"status": asdict(feed.status), **(payload or {})}
    finally:
        feed.leave()


class EventStream(StreamingResponse):
    """Server-sent events, ended in good order when the process goes down and cancels them."""

    media_type = "text/event-stream"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


def _events(find: Callable[[], Feed]) -> EventStream:
    """A feed as server-sent events; it counts a viewer for as long as the browser is connected."""

    async def watched() -> AsyncIterator[str]:
        feed = find()
        feed.join()
        try:
            async for message in feed.messages():
                yield message
        finally:
            feed.leave()

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return EventStream(watched(), headers=headers)
