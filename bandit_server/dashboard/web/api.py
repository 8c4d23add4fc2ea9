"""The JSON API: the data of the pages, for programs. Described at /api/openapi.json."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import grpc.aio
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse, StreamingResponse

from bandit_server.dashboard.live.feeds import Hub
from bandit_server.dashboard.live.sse import UNREACHABLE, Feed
from bandit_server.dashboard.view import export
from bandit_server.dashboard.view.event_log import KINDS, ROWS
from bandit_server.dashboard.web import schemas
from protos.optima.v1 import bandit_pb2 as pb

# Seconds that a request waits for a feed to become ready.
READY_TIMEOUT = 5.0
NAME_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

RunName = Annotated[str, PathParameter(pattern=NAME_PATTERN, description="The run's name.")]
Responses = dict[int | str, dict[str, Any]]
NOT_FOUND: Responses = {404: {"model": schemas.Problem, "description": "No such run."}}
UNAVAILABLE: Responses = {503: {"model": schemas.Problem, "description": "The bandit server does not answer."}}

# HTTP statuses of the server's refusals. Any other error of the server is 502.
HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
}

router = APIRouter(prefix="/api")


def responses(model: Any, *others: Responses) -> Responses:
    """Return the description of a route's responses for OpenAPI."""
    merged: Responses = {200: {"model": model}}
    for other in others:
        merged |= other
    return merged


def hub_of(request: Request) -> Hub:
    """Return the feeds of this process."""
    hub: Hub = request.app.state.hub
    return hub


@router.get("/runs", response_model=None, responses=responses(schemas.Runs, UNAVAILABLE))
async def runs(request: Request) -> JSONResponse:
    """Return all runs, newest first."""
    return JSONResponse(await _read(hub_of(request).runs()))


@router.get("/runs/{run}", response_model=None, responses=responses(schemas.Whole, NOT_FOUND, UNAVAILABLE))
async def one_run(request: Request, run: RunName) -> JSONResponse:
    """Return one run, thinned to what a chart can show; extremes and gaps are kept. `export` has every number."""
    return JSONResponse(await _read(hub_of(request).run(run)))


@router.get("/runs/{run}/events", response_model=None, responses=responses(schemas.Events, NOT_FOUND, UNAVAILABLE))
async def events(
    request: Request,
    run: RunName,
    before: Annotated[int | None, Query(ge=0, le=2**53, description="Only events before this version.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of events.")] = ROWS,
    kind: Annotated[list[Literal[KINDS]] | None, Query(description="Only these kinds.")] = None,  # type: ignore[valid-type]
    arm: Annotated[str, Query(max_length=64, description="Only events of this arm.")] = "",
    worker: Annotated[str, Query(max_length=64, description="Only events of this worker.")] = "",
) -> JSONResponse:
    """Return events of a run's history, newest first."""
    feed = hub_of(request).run(run)
    await _read(feed, render=False)
    return JSONResponse({"events": feed.view.log.page(before, 0, limit, frozenset(kind or ()), arm, worker)})


@router.get(
    "/runs/{run}/export/events.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}, "description": "The history."}, **NOT_FOUND, **UNAVAILABLE},
)
async def history(request: Request, run: RunName) -> StreamingResponse:
    """Return a run's whole history, one event per line (schema: Event in protos/optima/v1/bandit.proto)."""
    batches = hub_of(request).client.history(run)
    with translated_errors():
        first = await anext(batches)

    async def text() -> AsyncIterator[str]:
        yield _event_lines(first)
        async for batch in batches:
            yield _event_lines(batch)

    return _download(text(), f"{run}-events.jsonl", "application/jsonl")


@router.get(
    "/runs/{run}/export/{table}.{form}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/csv": {}, "application/json": {}}, "description": "The table."},
        **NOT_FOUND,
        **UNAVAILABLE,
    },
)
async def table(request: Request, run: RunName, table: export.Table, form: export.Format) -> StreamingResponse:
    """Return all pulls, posteriors or measured numbers of a run, as `optima runs export` does."""
    tables = export.RunTables()
    with translated_errors():
        async for batch in hub_of(request).client.history(run):
            tables.add(batch)

    async def text() -> AsyncIterator[str]:
        for row in export.format_rows(table, form, tables.rows(table)):
            yield row

    return _download(text(), f"{run}-{table}.{form}", "text/csv" if form == "csv" else "application/json")


def _event_lines(batch: pb.WatchRunResponse) -> str:
    return "".join(export.event_line(event) for event in batch.events)


def _download(text: AsyncIterator[str], name: str, media_type: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return StreamingResponse(text, media_type=media_type, headers=headers)


@contextlib.contextmanager
def translated_errors() -> Iterator[None]:
    """Translate errors of the bandit server into HTTP errors with the server's own message."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() in UNREACHABLE:
            raise HTTPException(503, "the bandit server does not answer") from error
        raise HTTPException(HTTP_STATUS.get(error.code(), 502), error.details() or error.code().name) from error


async def _read(feed: Feed, render: bool = True) -> dict[str, Any]:
    """Return the current content of a feed.

    Raises:
        HTTPException: 404 if there is no such run, 503 if the server is unreachable or the history still being read.
    """
    feed.join()
    try:
        await feed.wait_ready(READY_TIMEOUT)
        if not feed.ready:
            state, reason = feed.status.state, feed.status.reason or "the bandit server does not answer"
            if state == "reading":
                reason = f"the history of {feed.name} is still being read ({reason}): try again later"
            raise HTTPException(404 if state == "missing" else 503, reason)
        payload = feed.render(None)[0] if render else None
        return {"status": asdict(feed.status), **(payload or {})}
    finally:
        feed.leave()
