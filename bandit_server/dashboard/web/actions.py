"""What an operator may do from a browser: pause and resume an arm, end a run, delete it. Each is an event of the
history, but for the last, which leaves none.

None of these can be done by a form or a link of another site: they are PATCH and DELETE, which browsers send across
origins only after asking, and nobody answers that they may.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi import Path as InPath
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict

from bandit_server.dashboard.view.summaries import run_detail
from bandit_server.dashboard.web import schemas
from bandit_server.dashboard.web.api import AWAY, MISSING, PATTERN, Answers, Name, answers, hub, refusals

PROBLEMS: Answers = {
    400: {"model": schemas.Problem, "description": "No such arm, or the name was not typed."},
    403: {"model": schemas.Problem, "description": "Asked from another site."},
    409: {"model": schemas.Problem, "description": "Not for this run now."},
    **MISSING,
    **AWAY,
}


def same_site(request: Request) -> None:
    """Refuse what a page of another site asks for.

    Where nobody must log in, a name that another site points at this machine must not do either: then only an
    address will do, or localhost.
    """
    host = request.headers.get("host", "")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        raise HTTPException(403, f"the page at {origin} may not change runs here")
    if not request.app.state.guarded and not _address(host):
        raise HTTPException(
            403, "without a token runs are changed from localhost or an IP address only: set OPTIMA_TOKEN on the server"
        )


router = APIRouter(prefix="/api", dependencies=[Depends(same_site)])


class ArmChange(BaseModel):
    """What is to become of an arm."""

    model_config = ConfigDict(extra="forbid")
    paused: bool


class RunChange(BaseModel):
    """What is to become of a run."""

    model_config = ConfigDict(extra="forbid")
    state: Literal["finished"]


@router.patch("/runs/{run}/arms/{arm}", response_model=None, responses=answers(schemas.Done, PROBLEMS))
async def update_arm(
    request: Request,
    run: Name,
    arm: Annotated[str, InPath(pattern=PATTERN, description="The arm's name.")],
    change: ArmChange,
) -> JSONResponse:
    """Pause an arm or resume it. Affects new choices only."""
    with refusals():
        told = await hub(request).client.update_arm(run, arm, change.paused, _actor(request))
    return JSONResponse({"run": run_detail(told, told.updated)})


@router.patch("/runs/{run}", response_model=None, responses=answers(schemas.Done, PROBLEMS))
async def finish(request: Request, run: Name, change: RunChange) -> JSONResponse:
    """End a run: its workers write their students and exit when they next ask for an arm."""
    with refusals():
        told = await hub(request).client.finish_run(run, _actor(request))
    return JSONResponse({"run": run_detail(told, told.updated)})


@router.delete("/runs/{run}", response_model=None, responses=answers(schemas.Done, PROBLEMS))
async def delete(
    request: Request,
    run: Name,
    confirm: Annotated[str, Query(max_length=64, description="The run's name once more.")],
    force: Annotated[bool, Query(description="Although workers are alive; they go on without a server.")] = False,
) -> JSONResponse:
    """Delete a run's history for good; its name is refused for 30 days."""
    if confirm != run:
        raise HTTPException(400, f"to delete run {run}, `confirm` must be its name")
    with refusals():
        await hub(request).client.delete_run(run, force)
    return JSONResponse({"run": None})


def _actor(request: Request) -> str:
    """Who asks, as the history shows it."""
    return f"dashboard, {request.client.host}" if request.client else "dashboard"


def _address(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
