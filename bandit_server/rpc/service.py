"""The RPCs: requests checked, given to the runs, and answered; refusals as status codes."""

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
from bandit_server.rpc import validation as checks
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

Q = TypeVar("Q")
R = TypeVar("R")
if TYPE_CHECKING:
    # Generic for the type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


async def _refuse(context: Context, error: Exception) -> NoReturn:
    """End the call with the error's status, sentence and reason (bandit.proto, "Status codes")."""
    if isinstance(error, ServerError):
        metadata: tuple[tuple[str, str | bytes], ...] = (("optima-reason", error.reason), *error.metadata)
        await context.abort(grpc.StatusCode[error.status], str(error), metadata)
    log.error("a call failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"the server has a fault: {type(error).__name__}; its log has more")


def _answering(
    method: Callable[[Service, Q], Awaitable[R]],
) -> Callable[[Service, Q, Context], Awaitable[R]]:
    @functools.wraps(method)
    async def call(self: Service, request: Q, context: Context) -> R:
        try:
            return await method(self, request)
        except Exception as error:
            await _refuse(context, error)

    return call


class Service(rpc.BanditServicer):
    """The servicer. What each call does, takes and refuses is written in bandit.proto."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._listing = Listing(runs)

    @_answering
    async def CreateRun(self, request: pb.CreateRunRequest) -> pb.CreateRunResponse:
        caller = request.caller
        checks.caller(caller, optional=True)
        checks.info(request.info)
        request.spec.CopyFrom(checks.spec(request.spec))
        incarnation = secrets.token_hex(8)

        def decide(state: RunState, _: OldRound | None) -> Decision[bool]:
            return lifecycle.create(state, request, incarnation)

        created, state = await self._runs.execute(caller.run, decide, worker=caller.worker, may_create=True)
        next_round = state.workers[caller.worker].reported_rounds.first_open if caller.worker else 0
        return pb.CreateRunResponse(run=await self._told(state), created=created, next_round=next_round)

    @_answering
    async def GetRun(self, request: pb.GetRunRequest) -> pb.GetRunResponse:
        checks.name(request.run, "run")
        return pb.GetRunResponse(run=await self._told(await self._runs.state(request.run)))

    @_answering
    async def ListRuns(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        return await self._listing.page(request.page_size, request.page_token)

    @_answering
    async def FinishRun(self, request: pb.FinishRunRequest) -> pb.FinishRunResponse:
        checks.name(request.run, "run")
        checks.text(request.actor, "actor")
        _, state = await self._runs.execute(request.run, lambda state, _: lifecycle.finish(state, request.actor))
        return pb.FinishRunResponse(run=await self._told(state))

    @_answering
    async def DeleteRun(self, request: pb.DeleteRunRequest) -> pb.DeleteRunResponse:
        checks.name(request.run, "run")
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

    @_answering
    async def UpdateArm(self, request: pb.UpdateArmRequest) -> pb.UpdateArmResponse:
        checks.name(request.run, "run")
        checks.name(request.arm, "arm")
        checks.text(request.actor, "actor")
        _, state = await self._runs.execute(request.run, lambda state, _: lifecycle.update_arm(state, request))
        return pb.UpdateArmResponse(run=await self._told(state))

    @_answering
    async def SelectArm(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        checks.caller(request.caller)
        checks.round(request.round)
        return await self._select(request)

    async def _select(self, request: pb.SelectArmRequest) -> pb.SelectArmResponse:
        caller = request.caller
        alive = await self._runs.alive(caller.run, besides=caller.worker)

        def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.SelectArmResponse]:
            return rounds.select(state, request, alive, old_round)

        return (await self._runs.execute(caller.run, decide, worker=caller.worker))[0]

    @_answering
    async def ReportReward(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        caller = request.caller
        checks.caller(caller)
        checks.round(request.round)
        checks.chosen(request.arm, request.chosen_by)
        checks.measurement(request.measurement)
        if request.HasField("select_round"):
            checks.round(request.select_round)
            return await self._report_and_select(request)

        def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.ReportRewardResponse]:
            return rounds.report(state, request, old_round)

        return (await self._runs.execute(caller.run, decide, worker=caller.worker))[0]

    async def _report_and_select(self, request: pb.ReportRewardRequest) -> pb.ReportRewardResponse:
        caller = request.caller
        # Also if it takes two appends, both are within the time of one.
        async with self._runs.within_deadline():
            alive = await self._runs.alive(caller.run, besides=caller.worker)

            def decide(state: RunState, old_round: OldRound | None) -> Decision[pb.ReportRewardResponse]:
                return rounds.report_and_select(state, request, alive, old_round)

            answer, _ = await self._runs.execute(caller.run, decide, worker=caller.worker)
            if not answer.HasField("selected"):
                selection = pb.SelectArmRequest(caller=caller, round=request.select_round)
                answer.selected.CopyFrom(await self._select(selection))
        return answer

    @_answering
    async def Heartbeat(self, request: pb.HeartbeatRequest) -> pb.HeartbeatResponse:
        checks.heartbeat(request)
        caller = request.caller
        state = await self._runs.state(caller.run)
        check_caller(state, caller)
        told = pb.HeartbeatResponse(incarnation=state.incarnation, version=state.version, finished=state.finished)
        await self._runs.record_heartbeat(caller.run, caller.worker, request.SerializeToString())
        return told

    @_answering
    async def RestoreRun(self, request: pb.RestoreRunRequest) -> pb.RestoreRunResponse:
        caller = request.caller
        checks.caller(caller)
        checks.info(request.info)
        request.spec.CopyFrom(checks.spec(request.spec))
        checks.records(request)
        incarnation = secrets.token_hex(8)
        deadline = time.monotonic() + self._runs.deadline
        while True:
            history = await self._runs.read(caller.run)

            def decide(state: RunState, _: OldRound | None, history: list[pb.Event] = history) -> Decision[int]:
                if len(history) != state.version:
                    raise _Moved
                return restore.restore(state, request, restore.RecordedRounds(caller.worker, history), incarnation)

            try:
                restored, state = await self._runs.execute(caller.run, decide, worker=caller.worker, may_create=True)
                return pb.RestoreRunResponse(run=await self._told(state), restored=restored)
            except _Moved:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"run {caller.run} moves on faster than it can be read; try again") from None

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        """See bandit.proto."""
        try:
            checks.name(request.run, "run")
            async for batch in watch(self._runs, request.run, request.from_version, request.incarnation):
                yield batch
        except Exception as error:
            await _refuse(context, error)

    async def _told(self, state: RunState) -> pb.RunSummary:
        # Before anything is awaited: the state goes on changing.
        told = summary.summary(state)
        heartbeats = await self._runs.store.heartbeats([(told.run, worker.worker) for worker in told.workers])
        return summary.with_heartbeats(told, heartbeats)


class _Moved(Exception):
    """The run has moved on since its history was read."""
