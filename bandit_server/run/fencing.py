"""The callers that are refused: a process that a newer one has replaced, and one that has seen lost history."""

from __future__ import annotations

from bandit_server.errors import DataLoss, Fenced, Invalid
from bandit_server.run.state import RunState
from bandit_server.run.worker import Worker
from protos.optima.v1 import bandit_pb2 as pb


def check_history(state: RunState, caller: pb.Caller) -> None:
    """Check that the run has all the history that the caller has seen.

    Raises:
        DataLoss: It has not.
    """
    if caller.incarnation and caller.incarnation != state.incarnation:
        raise DataLoss(
            f"run {state.run} is in another incarnation ({state.incarnation or 'none'}) than the one that worker "
            f"{caller.worker} knows ({caller.incarnation}): its history was lost; restore it from the worker's journal"
        )
    if caller.seen_version > state.version:
        raise DataLoss(
            f"run {state.run} has {state.version} events, but worker {caller.worker} has seen {caller.seen_version}: "
            "the store has lost history; restore it from the worker's journal"
        )


def check_process(state: RunState, caller: pb.Caller) -> None:
    """Check that no newer process of the caller's worker has started.

    Raises:
        Fenced: One has.
    """
    worker = state.workers.get(caller.worker)
    if worker is not None and caller.process in worker.fenced:
        raise Fenced(f"a newer process of worker {caller.worker} has started; this one must stop")


def check_caller(state: RunState, caller: pb.Caller) -> Worker:
    """Check that the caller may act in the run now, and return its worker.

    Raises:
        DataLoss: The caller has seen history that the run does not have, its own start for example.
        Fenced: A newer process of the worker has started.
        Invalid: The caller has not joined the run.
    """
    check_history(state, caller)
    check_process(state, caller)
    worker = state.workers.get(caller.worker)
    if worker is not None and worker.process == caller.process:
        return worker
    if caller.incarnation:
        raise DataLoss(
            f"run {state.run} has no record of the start of worker {caller.worker}, process {caller.process}: "
            "the store has lost history; restore it from the worker's journal"
        )
    raise Invalid(f"worker {caller.worker}, process {caller.process} has not joined run {state.run}: call CreateRun")
