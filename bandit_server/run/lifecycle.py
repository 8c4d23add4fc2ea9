"""Create or join a run, end it, and pause its arms."""

from __future__ import annotations

from bandit_server.errors import ArmRequired, DataLoss, Invalid, RunFinished, SpecMismatch
from bandit_server.run.decision import Decision
from bandit_server.run.fencing import check_history, check_process
from bandit_server.run.rounds import unknown_arm
from bandit_server.run.state import JOINT, SCHEMA, RunState
from protos.optima.v1 import bandit_pb2 as pb


def create(state: RunState, request: pb.CreateRunRequest, incarnation: str) -> Decision[bool]:
    """Create the run, or join it.

    Args:
        state: The run.
        request: The request.
        incarnation: For a new run.

    Returns:
        A decision whose answer is whether the run was created.

    Raises:
        SpecMismatch: The run exists with another spec.
        DataLoss: The caller has seen history that the run does not have.
        Fenced: A newer process of the worker has started.
    """
    caller = request.caller
    if state.version == 0:
        if caller.incarnation:
            raise DataLoss(
                f"run {state.run} does not exist, but worker {caller.worker} has seen {caller.seen_version} events of "
                "it: the store has lost it; restore it from the worker's journal"
            )
        events = [created(request.spec, incarnation)]
        return Decision(True, [*events, *started(state, caller, request.info)])
    check_history(state, caller)
    check_spec(state, request.spec)
    return Decision(False, started(state, caller, request.info))


def created(spec: pb.RunSpec, incarnation: str) -> pb.Event:
    """Return the first event of a run."""
    return pb.Event(schema=SCHEMA, run_created=pb.RunCreated(spec=spec, incarnation=incarnation))


def check_spec(state: RunState, spec: pb.RunSpec) -> None:
    """Check that the spec is the run's.

    Raises:
        SpecMismatch: It is not; the message names the first field that differs.
    """
    for field in spec.DESCRIPTOR.fields:
        ours, theirs = getattr(state.spec, field.name), getattr(spec, field.name)
        if ours != theirs:
            raise SpecMismatch(
                f"run {state.run} exists with another spec: {field.name} is {_brief(ours)}, not {_brief(theirs)}; "
                "join it with the same spec, or choose another name"
            )


def started(state: RunState, caller: pb.Caller, info: pb.WorkerInfo) -> list[pb.Event]:
    """Return the event of the start of the caller's process; none if it has one, or the caller is no worker.

    Raises:
        Fenced: A newer process of the worker has started.
        SpecMismatch: The run is for a single worker, and has one.
    """
    if not caller.worker:
        return []
    check_process(state, caller)
    worker = state.workers.get(caller.worker)
    if worker is not None and worker.process == caller.process:
        return []
    if state.version and state.spec.reward == pb.REWARD_KIND_ABSOLUTE and worker is None and state.workers:
        raise SpecMismatch(
            f"run {state.run} has absolute rewards, which allow only one worker, and worker "
            f"{next(iter(state.workers))} has already joined it; several workers need relative rewards"
        )
    start = pb.WorkerStarted(worker=caller.worker, process=caller.process, info=info)
    return [pb.Event(schema=SCHEMA, worker_started=start)]


def finish(state: RunState, actor: str) -> Decision[None]:
    """End the run. Idempotent."""
    if state.finished:
        return Decision(None)
    return Decision(None, [pb.Event(schema=SCHEMA, run_finished=pb.RunFinished(actor=actor))])


def update_arm(state: RunState, request: pb.UpdateArmRequest) -> Decision[None]:
    """Pause or resume an arm. Idempotent.

    Raises:
        Invalid: No such arm.
        RunFinished: The run has ended.
        ArmRequired: The arm is the last active one, or the one that the policy always plays.
    """
    if request.arm not in state.arms:
        raise Invalid(unknown_arm(state, request.arm))
    if state.finished:
        raise RunFinished(f"run {state.run} has ended, so its arms can be neither paused nor resumed")
    if state.arms[request.arm].paused == request.paused:
        return Decision(None)
    if request.paused:
        _check_may_pause(state, request.arm)
    update = pb.ArmUpdated(arm=request.arm, paused=request.paused, actor=request.actor)
    return Decision(None, [pb.Event(schema=SCHEMA, arm_updated=update)])


def _check_may_pause(state: RunState, arm: str) -> None:
    policy = state.spec.policy.name
    if policy == JOINT or policy.startswith("fixed:"):
        always = JOINT if policy == JOINT else policy.partition(":")[2]
        if arm == always:
            raise ArmRequired(f"policy {policy} of run {state.run} plays arm {arm} only, so it cannot be paused")
    if state.active == [state.index[arm]]:
        raise ArmRequired(f"arm {arm} is the last active arm of run {state.run}, so it cannot be paused")


def _brief(value: object) -> str:
    text = " ".join(str(value).split()) or "empty"
    return text if len(text) <= 200 else f"{text[:200]}…"
