"""Changes to runs from a browser: pause and resume an arm, finish a run, delete it.

All but the deletion are recorded in the run's history. They are PATCH and DELETE requests, which no form or link of
another site can send: browsers ask for permission first, and the dashboard never grants it.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Path as PathParameter
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from bandit_server.dashboard.view.summaries import run_detail
from bandit_server.dashboard.web import schemas
from bandit_server.dashboard.web.api import (
    NAME_PATTERN,
    NOT_FOUND,
    UNAVAILABLE,
    Responses,
    RunName,
    hub_of,
    responses,
    translated_errors,
)

PROBLEMS: Responses = {
    400: {"model": schemas.Problem, "description": "No such arm, or `confirm` is not the run's name."},
    403: {"model": schemas.Problem, "description": "The request comes from another site."},
    409: {"model": schemas.Problem, "description": "Not possible in the run's current state."},
    **NOT_FOUND,
    **UNAVAILABLE,
}


def require_same_site(request: Request) -> None:
    """Refuse requests from pages of other sites.

    Without a login, another site could point a host name of its own at this machine (DNS rebinding). Then only
    localhost and IP addresses are accepted as host.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise HTTPException(403, f"refused: only the dashboard's own pages may change runs, not the page at {origin}")
    if not request.app.state.guarded and not _is_address(host):
        raise HTTPException(
            403,
            "without a token, runs can be changed only from a page at localhost or an IP address: open the dashboard "
            "there, or set OPTIMA_TOKEN on the server",
        )


router = APIRouter(prefix="/api", dependencies=[Depends(require_same_site)])


class ArmChange(BaseModel):
    """A change of an arm."""

    model_config = ConfigDict(extra="forbid")
    paused: bool


class RunChange(BaseModel):
    """A change of a run."""

    model_config = ConfigDict(extra="forbid")
    state: Literal["finished"]


@router.patch("/runs/{run}/arms/{arm}", response_model=None, responses=responses(schemas.Done, PROBLEMS))
async def update_arm(
    request: Request,
    run: RunName,
    arm: Annotated[str, PathParameter(pattern=NAME_PATTERN, description="The arm's name.")],
    change: ArmChange,
) -> JSONResponse:
    """Pause or resume an arm. Rounds that have begun are not affected."""
    with translated_errors():
        summary = await hub_of(request).client.update_arm(run, arm, change.paused, _actor(request))
    return JSONResponse({"run": run_detail(summary, summary.updated)})


@router.patch("/runs/{run}", response_model=None, responses=responses(schemas.Done, PROBLEMS))
async def finish(request: Request, run: RunName, change: RunChange) -> JSONResponse:
    """Finish a run: its workers save their students and exit when they next ask for an arm."""
    with translated_errors():
        summary = await hub_of(request).client.finish_run(run, _actor(request))
    return JSONResponse({"run": run_detail(summary, summary.updated)})


@router.delete("/runs/{run}", response_model=None, responses=responses(schemas.Done, PROBLEMS))
async def delete(
    request: Request,
    run: RunName,
    confirm: Annotated[str, Query(max_length=64, description="The run's name again.")],
    force: Annotated[
        bool, Query(description="Delete while workers are alive; they train on without a server.")
    ] = False,
) -> JSONResponse:
    """Delete a run and its history for good. Its name cannot be used again for 30 days."""
    if confirm != run:
        raise HTTPException(400, f"to delete run {run}, set `confirm` to its name")
    with translated_errors():
        await hub_of(request).client.delete_run(run, force)
    return JSONResponse({"run": None})


def _actor(request: Request) -> str:
    """Return the author of a change as the history shows it."""
    return f"dashboard, {request.client.host}" if request.client else "dashboard"


def _is_address(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
