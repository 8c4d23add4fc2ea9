"""The dashboard as an ASGI application.

    uvicorn.Server(uvicorn.Config(create_app("127.0.0.1:50051"), port=8080, timeout_graceful_shutdown=1))

Give uvicorn a `timeout_graceful_shutdown`: an open page keeps its event stream open, and by default uvicorn waits for
streams for ever.
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
from bandit_server.dashboard.live.sse import Feed, merge
from bandit_server.dashboard.view.run_view import Selection
from bandit_server.dashboard.web import actions, api, schemas
from bandit_server.dashboard.web.api import NAME_PATTERN, RunName, hub_of, responses
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
    """Create the dashboard of a bandit server.

    It connects when the application starts, and it starts and stays up without the server.

    Args:
        server_address: HOST:PORT of the server, as it is shown.
        token: The server's token, which browsers must log in with, too. None: everybody may look and act.
        credentials: For a server with TLS.
        target: Where gRPC connects to, if that is not `server_address`.
        metrics: Served at /metrics.
        anyone_may_look: Show runs without a login even if there is a token; changes still need it.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.hub = Hub(ServerClient(server_address, token, credentials, target))
        yield
        await app.state.hub.close()

    # FastAPI's documentation pages load scripts from other hosts; only the OpenAPI description is served.
    app = FastAPI(
        title="OPTIMA dashboard",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/openapi.json",
    )
    app.state.guarded = token is not None
    app.add_exception_handler(RequestValidationError, _validation_error)
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
    async def run_page(run: RunName) -> FileResponse:
        return FileResponse(STATIC / "run.html")

    app.include_router(api.router)
    app.include_router(actions.router)

    @app.get("/events/runs", include_in_schema=False)
    async def runs_events(request: Request) -> EventStream:
        return EventStream(_watch(hub_of(request).runs))

    @app.get("/events/runs/{run}", include_in_schema=False)
    async def run_events(request: Request, run: RunName) -> EventStream:
        return EventStream(_watch(partial(hub_of(request).run, run)))

    @app.get("/events/compare", include_in_schema=False)
    async def compare_events(
        request: Request,
        run: Annotated[
            list[Annotated[str, StringConstraints(pattern=NAME_PATTERN)]], Query(min_length=1, max_length=8)
        ],
    ) -> EventStream:
        return EventStream(merge([_watch(partial(hub_of(request).run, name), "lines") for name in dict.fromkeys(run)]))

    @app.get("/healthz", response_model=None, responses=responses(schemas.Health))
    async def healthz(request: Request) -> dict[str, Any]:
        """Return 200 while this process serves. `bandit_server` says whether the bandit server answers it."""
        try:
            await hub_of(request).client.ping()
        except grpc.aio.AioRpcError as error:
            return {"status": "ok", "bandit_server": "away", "reason": error.code().name}
        return {"status": "ok", "bandit_server": "reachable"}

    return app


class EventStream(StreamingResponse):
    """Server-sent events. The response is completed when the process shuts down and cancels it."""

    media_type = "text/event-stream"

    def __init__(self, messages: AsyncIterator[str]) -> None:
        super().__init__(messages, headers={"cache-control": "no-store", "x-accel-buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; after a cancellation send the end of the response."""
        try:
            await super().__call__(scope, receive, send)
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    """Describe an invalid request without repeating its values, one of which may be a misplaced secret."""
    assert isinstance(error, RequestValidationError)
    detail = [{key: item[key] for key in ("type", "loc", "msg")} for item in error.errors()]
    return JSONResponse({"detail": jsonable_encoder(detail)}, 422)


async def _watch(get_feed: Callable[[], Feed], selection: Selection = "all") -> AsyncGenerator[str]:
    """Yield a feed's messages for one browser, which counts as a viewer while it is connected."""
    feed = get_feed()
    feed.join()
    try:
        async for message in feed.messages(selection):
            yield message
    finally:
        feed.leave()
