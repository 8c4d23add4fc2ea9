"""The dashboard as an ASGI application.

    uvicorn.Server(uvicorn.Config(create_app("127.0.0.1:50051"), port=8080, timeout_graceful_shutdown=1))

Give uvicorn a `timeout_graceful_shutdown`: an open page holds its event stream for as long as it is looked at, and
uvicorn waits for streams without end by default.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import grpc.aio
from fastapi import FastAPI, Query, Request
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CollectorRegistry
from pydantic import StringConstraints
from starlette.types import Receive, Scope, Send

from bandit_server.dashboard.live.feeds import Hub
from bandit_server.dashboard.live.server_client import ServerClient
from bandit_server.dashboard.live.sse import Feed, merged
from bandit_server.dashboard.view.run_view import Part
from bandit_server.dashboard.web import schemas
from bandit_server.dashboard.web.actions import router as actions
from bandit_server.dashboard.web.api import PATTERN, Name, answers, hub
from bandit_server.dashboard.web.api import router as api
from bandit_server.dashboard.web.headers import SecurityHeaders
from bandit_server.dashboard.web.login import Sessions, add_login
from bandit_server.dashboard.web.metrics_endpoint import add_metrics

STATIC = Path(__file__).parents[1] / "static"


def create_app(
    server_address: str,
    token: str | None = None,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    target: str | None = None,
    metrics: CollectorRegistry | None = None,
    anyone_may_look: bool = False,
) -> FastAPI:
    """The dashboard of the bandit server at `server_address` (host:port).

    Nothing is called before the application starts, and it starts and stays up without the server.

    Args:
        server_address: As it is shown.
        token: Shown to that server; browsers must log in with it, too. None: everybody may look and act.
        credentials: For a server with TLS.
        target: Where gRPC finds the server, if that is not its address.
        metrics: Served at /metrics.
        anyone_may_look: Although there is a token, runs are shown without it; it is needed to change them.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = Hub(ServerClient(server_address, token, credentials, target))
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
    app.state.guarded = token is not None
    app.add_exception_handler(RequestValidationError, _wrong)
    add_login(app, Sessions(token) if token else None, anyone_may_look)
    app.add_middleware(SecurityHeaders)
    if metrics is not None:
        add_metrics(app, metrics)
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def runs_page() -> FileResponse:
        return FileResponse(STATIC / "runs.html")

    @app.get("/compare", include_in_schema=False)
    async def compare_page() -> FileResponse:
        return FileResponse(STATIC / "compare.html")

    @app.get("/runs/{run}", include_in_schema=False)
    async def run_page(run: Name) -> FileResponse:
        return FileResponse(STATIC / "run.html")

    app.include_router(api)
    app.include_router(actions)

    @app.get("/events/runs", include_in_schema=False)
    async def runs_events(request: Request) -> EventStream:
        return _events(hub(request).runs)

    @app.get("/events/runs/{run}", include_in_schema=False)
    async def run_events(request: Request, run: Name) -> EventStream:
        return _events(lambda: hub(request).run(run))

    @app.get("/events/compare", include_in_schema=False)
    async def compare_events(
        request: Request,
        run: Annotated[list[Annotated[str, StringConstraints(pattern=PATTERN)]], Query(min_length=1, max_length=8)],
    ) -> EventStream:
        return EventStream(merged([_watched(partial(hub(request).run, name), "lines") for name in dict.fromkeys(run)]))

    @app.get("/healthz", response_model=None, responses=answers(schemas.Health))
    async def healthz(request: Request) -> dict[str, Any]:
        """200 while this process serves, whatever the bandit server does; `bandit_server` says what that is."""
        try:
            await hub(request).client.ping()
        except grpc.aio.AioRpcError as error:
            return {"status": "ok", "bandit_server": "away", "reason": error.code().name}
        return {"status": "ok", "bandit_server": "reachable"}

    return app


class EventStream(StreamingResponse):
    """Server-sent events, ended in good order when the process goes down and cancels them."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncIterator[str]) -> None:
        super().__init__(messages, headers={"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _wrong(_: Request, error: Exception) -> JSONResponse:
    """What is wrong with a request and where, without what it held: that may be a secret in the wrong place."""
    assert isinstance(error, RequestValidationError)
    told = [{key: fault[key] for key in ("type", "loc", "msg")} for fault in error.errors()]
    return JSONResponse({"detail": jsonable_encoder(told)}, 422)


def _events(find: Callable[[], Feed]) -> EventStream:
    """A feed as server-sent events."""
    return EventStream(_watched(find))


async def _watched(find: Callable[[], Feed], part: Part = "all") -> AsyncGenerator[str]:
    """What one browser is sent of a feed; it counts as a viewer for as long as it is connected."""
    feed = find()
    feed.join()
    try:
        async for message in feed.messages(part):
            yield message
    finally:
        feed.leave()
