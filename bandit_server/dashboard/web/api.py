"""The JSON API: what the pages show, for programs; described at /api/openapi.json."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from typing import Annotated, Any, Literal

import grpc.aio
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse

from bandit_server.dashboard.live.feeds import Hub
from bandit_server.dashboard.live.sse import AWAY as AWAY_CODES
from bandit_server.dashboard.live.sse import Feed
from bandit_server.dashboard.view import export
from bandit_server.dashboard.view.event_log import KINDS, ROWS
from bandit_server.dashboard.web import schemas
from protos.optima.v1 import bandit_pb2 as pb

# Seconds a request waits for a server that has not been heard yet.
PATIENCE = 5.0
PATTERN = r"^[A-Za-z0-9._-]{1,64}$"

Name = Annotated[str, InPath(pattern=PATTERN, description="The run's name.")]
Answers = dict[int | str, dict[str, Any]]
MISSING: Answers = {404: {"model": schemas.Problem, "description": "No such run."}}
AWAY: Answers = {503: {"model": schemas.Problem, "description": "The bandit server does not answer."}}

# How the server's refusals are told; whatever else it says is a failure behind this process.
STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
}

router = APIRouter(prefix="/api")


def answers(model: Any, *others: Answers) -> Answers:
    """What a route may answer, for its description."""
    told: Answers = {200: {"model": model}}
    for other in others:
        told |= other
    return told


def hub(request: Request) -> Hub:
    """The feeds of this process."""
    found: Hub = request.app.state.hub
    return found


@router.get("/runs", response_model=None, responses=answers(schemas.Runs, AWAY))
async def runs(request: Request) -> JSONResponse:
    """All runs, newest first: what the first page shows."""
    return JSONResponse(await _now(hub(request).runs()))


@router.get("/runs/{run}", response_model=None, responses=answers(schemas.Whole, MISSING, AWAY))
async def one_run(request: Request, run: Name) -> JSONResponse:
    """One run, thinned to what a chart can show; extremes and gaps are kept. `export` has every number."""
    return JSONResponse(await _now(hub(request).run(run)))


@router.get("/runs/{run}/events", response_model=None, responses=answers(schemas.Events, MISSING, AWAY))
async def events(
    request: Request,
    run: Name,
    before: Annotated[int | None, Query(ge=0, le=2**53, description="Only events before this version.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="At most so many.")] = ROWS,
    kind: Annotated[list[Literal[KINDS]] | None, Query(description="Only these kinds.")] = None,  # type: ignore[valid-type]
    arm: Annotated[str, Query(max_length=64, description="Only this arm's.")] = "",
    worker: Annotated[str, Query(max_length=64, description="Only this worker's.")] = "",
) -> JSONResponse:
    """A run's history in rows, newest first."""
    feed = hub(request).run(run)
    await _now(feed, render=False)
    return JSONResponse({"events": feed.view.log.page(before, 0, limit, frozenset(kind or ()), arm, worker)})


@router.get(
    "/runs/{run}/export/events.jsonl",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/jsonl": {}}, "description": "The history."}, **MISSING, **AWAY},
)
async def history(request: Request, run: Name) -> StreamingResponse:
    """A run's whole history, an event a line (schema: Event in protos/optima/v1/bandit.proto)."""
    batches = hub(request).client.history(run)
    with refusals():
        first = await anext(batches)

    async def text() -> AsyncIterator[str]:
        yield _lines(first)
        async for batch in batches:
            yield _lines(batch)

    return _file(text(), f"{run}-events.jsonl", "application/jsonl")


@router.get(
    "/runs/{run}/export/{table}.{form}",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/csv": {}, "application/json": {}}, "description": "The table."},
        **MISSING,
        **AWAY,
    },
)
async def table(request: Request, run: Name, table: export.Table, form: export.Format) -> StreamingResponse:
    """Every pull, every posterior told or every number measured of a run, as `optima runs export` writes it."""
    tables = export.RunTables()
    with refusals():
        async for batch in hub(request).client.history(run):
            tables.add(batch)

    async def text() -> AsyncIterator[str]:
        for part in export.format_rows(table, form, tables.rows(table)):
            yield part

    return _file(text(), f"{run}-{table}.{form}", "text/csv" if form == "csv" else "application/json")


def _lines(batch: pb.WatchRunResponse) -> str:
    return "".join(export.event_line(event) for event in batch.events)


def _file(text: AsyncIterator[str], name: str, kind: str) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return StreamingResponse(text, media_type=kind, headers=headers)


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """What the bandit server refuses is refused here, in its own words."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        if error.code() in AWAY_CODES:
            raise HTTPException(503, "the bandit server does not answer") from error
        raise HTTPException(STATUS.get(error.code(), 502), error.details() or error.code().name) from error


async def _now(feed: Feed, render: bool = True) -> dict[str, Any]:
    """What a feed shows at this moment. 404: no such run. 503: nothing is known, as the server is away."""
    feed.join()
    try:
        await feed.wait_ready(PATIENCE)
        if not feed.ready:
            state, reason = feed.status.state, feed.status.reason or "the bandit server does not answer"
            if state == "reading":
                reason = f"the history of {feed.name} is still being read: {reason}; ask again"
            raise HTTPException(404 if state == "missing" else 503, reason)
        payload = feed.render(None)[0] if render else None
        return {"status": asdict(feed.status), **(payload or {})}
    finally:
        feed.leave()
