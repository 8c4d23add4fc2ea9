"""The RPCs: each method checks its request, executes it on the run, and turns errors into status codes."""

from __future__ import annotations

import functools
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import grpc
import grpc.aio

from bandit_server.errors import ServerError, StoreUnavailable, WorkersAlive
from bandit_server.replica.runs import Runs
from bandit_server.rpc import validation
from bandit_server.rpc.listing import Listing
from bandit_server.rpc.watch import watch
from bandit_server.run import lifecycle, restore, rounds, summary
from bandit_server.run.decision import Decision
from bandit_server.run.fencing import check_caller
from bandit_server.run.old_rounds import OldRound
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1 import bandit_pb2_grpc as rpc

log = logging.getLogger(__name__)

# Seconds between two looks for a free arm, for a worker that waits for one.
LEASE_POLL_SECONDS = 1.0

Request = TypeVar("Request")
Response = TypeVar("Response")
if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


async def _abort(context: Context, error: Exception) -> NoReturn:
    """Abort the call with the error's status, message and reason (bandit.proto, "Status codes")."""
    if isinstance(error, ServerError):
        metadata: tuple[tuple[str, str | bytes], ...] = (("optima-reason", error.reason), *error.metadata)
        await context.abort(grpc.StatusCode[error.status], str(error), metadata)
    log.error("a call failed", exc_info=error)
    await context.abort(
        grpc.StatusCode.INTERNAL, f"internal error of the server: {type(error).__name__}; see the server's log"
    )


def _refusing(
    method: Callable[[Service, Request], Awaitable[Response]],
) -> Callable[[Service, Request, Context], Awaitable[Response]]:
    """Decorate a method so that its errors abort the call."""

    @functools.wraps(method)
    async def call(self: Service, request: Request, context: Context) -> Response:
        try:
            return await method(self, request)
        except Exception as error:
            await _abort(context, error)

    return call


class Service(rpc.BanditServicer):
    """The servicer. bandit.proto documents each method: its request, its effect and its errors."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._listing = Listing(runs)

    @_refusing
    async def CreateRun(self, request: pb.CreateRunRequest) -> pb.CreateRunResponse:
        """Create a run, or join one with an equal spec; start the worker's process."""
        caller = request.caller
        validation.check_caller(caller, optional=True)
        validation.check_info(request.info)
        request.spec.CopyFrom(validation.normalized_spec(request.spec))
        if caller.worker:
            validation.check_start(request.spec, request.info)
        incarnation = secrets.token_hex(8)

        def decide(state: RunState, _: OldRound | None) -> Decision[bool]:
            return lifecycle.create(state, request, incarnation)

        created, state = await self._runs.execute(caller.run, decide, worker=caller.worker, may_create=True)
        next_round = state.workers[caller.worker].reported_rounds.first_open if caller.worker else 0
        return pb.CreateRunResponse(run=await self._summary(state), created=created, next_round=next_round)

    @_refusing
    async def GetRun(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        """Return the summary of a run."""
        validation.check_name(request.run, "run")
        return pb.GetRunResponse(run=await self._summary(await self._runs.state(request.run)))

    @_refusing
    async def ListRuns(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        """Return a page of all runs, newest first."""
        return await self._listing.page(request.page_size, request.page_token)

    @_refusing
    async def FinishRun(self, request: pb.FinishRunRequest) -> pb.FinishRunResponse:
        """End a run."""
        validation.check_name(request.run, "run")
        validation.check_text(request.actor, "actor")
        _, state = await self._runs.execute(request.run, lambda state, _: lifecycle.finish(state, request.actor))
        return pb.FinishRunResponse(run=await self._summary(state))

    @_refusing
    async def DeleteRun(self, request: pb.DeleteRunRequest) -> pb.DeleteRunResponse:
        """Delete a run's history, and leave a tombstone."""
        validation.check_name(request.run, "run")
        state = await self._runs.state(request.run)
        if not request.force:
            heartbeats = await self._runs.store.heartbeats([(request.run, worker) for worker in state.workers])
            alive = [worker for (_, worker), heartbeat in heartbeats.items() if heartbeat.alive]
            if alive:
                raise WorkersAlive(
                    f"run {request.run} has workers that are alive ({', '.join(sorted(alive))}): stop them first, or "
                    "delete it with force"
                )
        await self._runs.delete(request.run)
        return pb.DeleteRunResponse()

    @_refusing
    async def UpdateArm(self, request: pb.UpdateArmRequest) -> pb.UpdateArmResponse:
        """Pause or resume an arm."""
        validation.check_name(request.run, "run")
        validation.check_name(request.arm, "arm")
        validation.check_text(request.actor, "actor")
        _, state = await self._runs.execute(request.run, lambda state, _: lifecycle.update_arm(state, request))
        return pb.UpdateArmResponse(run=await self._summary(state))

    @_refusing
    async def SelectArm(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        """Choose the arm of a worker's round."""
        validation.check_caller(request.caller)
        validation.check_round(request.round)
        wait_until = time.monotonic() + validation.seconds_to_wait(request)
        while True:
            response = await self._select(request)
            left = wait_until - time.monotonic()
            if not response.wait or left <= 0:
                return response
            # Another replica's events, and workers that are no longer alive, are not announced.
            await self._runs.wait(request.caller.run, min(left, LEASE_POLL_SECONDS))

    async def _select(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        caller = request.caller
        alive = await self._runs.alive(caller.run, besides=caller.worker)

        def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.SelectArmResponse]:
            return rounds.select(state, request, alive, old_round)

        return (await self._runs.execute(caller.run, decide, worker=caller.worker))[0]

    @_refusing
    async def ReportReward(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        """Store the measurement of a worker's round, and choose the next arm if asked to."""
        caller = request.caller
        validation.check_caller(caller)
        validation.check_round(request.round)
        validation.check_choice(request.arm, request.chosen_by)
        validation.check_measurement(request.measurement)
        validation.check_made(request.made)
        if request.HasField("select_round"):
            validation.check_round(request.select_round)
            return await self._report_and_select(request)

        def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.ReportRewardResponse]:
            return rounds.report(state, request, old_round)

        return (await self._runs.execute(caller.run, decide, worker=caller.worker))[0]

    async def _report_and_select(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        caller = request.caller
        # One deadline for both, even if they take two appends.
        async with self._runs.within_deadline():
            alive = await self._runs.alive(caller.run, besides=caller.worker)

            def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.ReportRewardResponse]:
                return rounds.report_and_select(state, request, alive, old_round)

            response, _ = await self._runs.execute(caller.run, decide, worker=caller.worker)
            if not response.HasField("selected"):
                selection = pb.SelectArmRequest(caller=caller, round=request.select_round)
                response.selected.CopyFrom(await self._select(selection))
        return response

    @_refusing
    async def Heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        """Store a worker's heartbeat."""
        validation.check_heartbeat(request)
        caller = request.caller
        state = await self._runs.state(caller.run)
        check_caller(state, caller)
        response = pb.HeartbeatResponse(incarnation=state.incarnation, version=state.version, finished=state.finished)
        await self._runs.record_heartbeat(caller.run, caller.worker, request.SerializeToString())
        return response

    @_refusing
    async def RestoreRun(self, request: pb.RestoreRunRequest) -> pb.RestoreRunResponse:
        """Restore lost history from a worker's journal."""
        caller = request.caller
        validation.check_caller(caller)
        validation.check_info(request.info)
        request.spec.CopyFrom(validation.normalized_spec(request.spec))
        validation.check_records(request)
        incarnation = secrets.token_hex(8)
        deadline = time.monotonic() + self._runs.deadline
        while True:
            history = await self._runs.read(caller.run)

            def decide(state: RunState, _: OldRound | None, history: list[pb.Event] = history) -> Decision[int]:
                if len(history) != state.version:
                    raise _Changed
                return restore.restore(state, request, restore.RecordedRounds(caller.worker, history), incarnation)

            try:
                restored, state = await self._runs.execute(caller.run, decide, worker=caller.worker, may_create=True)
                return pb.RestoreRunResponse(run=await self._summary(state), restored=restored)
            except _Changed:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"run {caller.run} changes faster than its history can be read; try again"
                    ) from None

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        """Yield a run's history, then new events as they are appended."""
        try:
            validation.check_name(request.run, "run")
            async for batch in watch(self._runs, request.run, request.from_version, request.incarnation):
                yield batch
        except Exception as error:
            await _abort(context, error)

    async def _summary(self, state: RunState) -> pb.RunSummary:
        # Before the first await, after which the state may change.
        run = summary.summary(state)
        heartbeats = await self._runs.store.heartbeats([(run.run, worker.worker) for worker in run.workers])
        return summary.with_heartbeats(run, heartbeats)


class _Changed(Exception):
    """Events were appended to the run since its history was read."""
