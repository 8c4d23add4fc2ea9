"""Rounds in a run with an exchange: a pull leases the modules of its arm, and its report makes versions of them.

The rounds of the spec are those of the whole run. A round counts once its report is accepted: it has made new versions,
or has diverged. The first ones are the policy's; those of the tail are joint, and each leases all modules.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bandit_server.errors import Invalid
from bandit_server.run.decision import Decision
from bandit_server.run.state import JOINT, SCHEMA, RunState
from protos.optima.v1 import bandit_pb2 as pb


def select(state: RunState, worker: str, round: int, alive: Collection[str]) -> Decision[pb.SelectArmResponse]:
    """Make a new pull on an arm whose modules are free; or tell the worker to wait, or that the run is over.

    Args:
        state: The run.
        worker: The worker.
        round: The worker's round, which has no pull that leases modules.
        alive: The other workers that are alive: the leases of all others have ended.
    """
    answer = pb.SelectArmResponse(incarnation=state.incarnation, version=state.version)
    held = state.modules.leases()
    # A worker reports a round before it asks for the next: its own leases were abandoned.
    in_flight = [pull for pull in held if pull.worker != worker and pull.worker in alive]
    left = state.spec.rounds - state.accepted if state.spec.rounds else None
    if left is not None and left <= 0:
        answer.finished = True
        return Decision(answer)
    tail = state.planned_tail
    is_tail = left is not None and left <= tail
    # The rounds in flight may be the last ones before the tail, or before the end.
    begun = left is not None and left - len(in_flight) <= (0 if is_tail else tail)
    busy = {module for pull in in_flight for module in state.modules.of(pull.arm)}
    free = [arm for arm in ([JOINT] if is_tail else state.arms) if not busy.intersection(state.modules.of(arm))]
    candidates = free if is_tail else [arm for arm in free if not state.arms[arm].paused]
    if begun or not candidates:
        answer.wait = True
        answer.waits_for.extend(in_flight)
        return Decision(answer)
    arm = JOINT if is_tail else _choose(state, worker, round, in_flight, candidates)
    pull = pb.Pull(
        number=state.next_number,
        worker=worker,
        round=round,
        arm=arm,
        chosen_by=pb.CHOSEN_BY_TAIL if is_tail else pb.CHOSEN_BY_POLICY,
        base=state.modules.base(arm),
    )
    # Those that are over without a report, of the worker's own or of modules that this pull needs.
    needed = set(state.modules.of(arm))
    ended = [
        one
        for one in held
        if one not in in_flight and (one.worker == worker or needed.intersection(state.modules.of(one.arm)))
    ]
    events = [pb.Event(schema=SCHEMA, lease_expired=pb.LeaseExpired(pull=one)) for one in ended]
    # Without the server a worker goes on with the modules that it holds, and with no others.
    events.append(pb.Event(schema=SCHEMA, arm_pulled=pb.ArmPulled(pull=pull, fallback_arms=[] if is_tail else [arm])))
    answer.pull.CopyFrom(pull)
    answer.fallback_arms.extend(events[-1].arm_pulled.fallback_arms)
    answer.version += len(events)
    return Decision(answer, events)


def _choose(state: RunState, worker: str, round: int, in_flight: Sequence[pb.Pull], candidates: Sequence[str]) -> str:
    """Return the policy's choice among arms that are free."""
    (arm,) = state.policy.choose(
        in_flight=[state.index[pull.arm] for pull in in_flight if pull.arm in state.index],
        active=[state.index[arm] for arm in candidates],
        rng=state.randomness.at(worker, round),
    )
    return list(state.arms)[arm]


def check_made(state: RunState, pull: pb.Pull, measurement: pb.Measurement, made: Sequence[pb.ModuleVersion]) -> None:
    """Check that a report has a version of each module of its arm; none if the round diverged.

    Raises:
        Invalid: It has not.
    """
    modules = state.modules.of(pull.arm) if measurement.outcome == pb.OUTCOME_MEASURED else ()
    names = [version.module for version in made]
    if sorted(names) != sorted(modules):
        raise Invalid(
            f"the report of round {pull.round} of worker {pull.worker} has versions of "
            f"{', '.join(names) or 'no module'}; expected one of each of {', '.join(modules) or 'none'}"
        )
