"""Who may call: not a process that a newer one has replaced, and not one that has seen more than there is."""

from __future__ import annotations

from bandit_server.errors import DataLoss, Fenced, Invalid
from bandit_server.run.state import RunState
from bandit_server.run.worker import Worker
from protos.optima.v1 import bandit_pb2 as pb


def check_history(state: RunState, caller: pb.Caller) -> None:
    """The run has all the history that the caller has seen.

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
    """The caller's process is not an older one of its worker.

    Raises:
        Fenced: It is.
    """
    worker = state.workers.get(caller.worker)
    if worker is not None and caller.process in worker.fenced:
        raise Fenced(f"a newer process of worker {caller.worker} has started; this one must stop")


def check_caller(state: RunState, caller: pb.Caller) -> Worker:
    """The worker whose process may act in the run now.

    Raises:
        DataLoss: It has seen history that is not there, its own start for example.
        Fenced: A newer process of the worker has started.
        Invalid: It has not joined the run.
    """
    check_history(state, caller)
    check_process(state, caller)
    worker = state.workers.get(caller.worker)
    if worker is not None and worker.process == caller.process:
        return worker
    if caller.incarnation:
        raise DataLoss(
            f"run {state.run} knows nothing of the start of worker {caller.worker}, process {caller.process}: "
            "the store has lost history; restore it from the worker's journal"
        )
    raise Invalid(f"worker {caller.worker}, process {caller.process} has not joined run {state.run}: call CreateRun")
