"""Select an arm for a round, and take the report of what came of it."""

from __future__ import annotations

from collections.abc import Collection

from bandit_server.bandit import reward
from bandit_server.bandit import serialization as memory
from bandit_server.bandit.policy import Policy
from bandit_server.errors import DataLoss, Invalid, ReportConflict, did_you_mean
from bandit_server.run.decision import Decision
from bandit_server.run.fencing import check_caller
from bandit_server.run.old_rounds import Recalled, round_of
from bandit_server.run.state import JOINT, SCHEMA, RunState
from protos.optima.v1 import bandit_pb2 as pb

# Choices that a worker takes along for the time without a server.
FALLBACK_ARMS = 64


def select(
    state: RunState, request: pb.SelectArmRequest, alive: Collection[str], recalled: Recalled | None = None
) -> Decision[pb.SelectArmResponse]:
    """The arm for (worker, round). `alive`: the workers whose open pulls count as in flight.

    Raises:
        DataLoss, Fenced, Invalid: See check_caller.
        NeedsHistory: See round_of.
    """
    caller = request.caller
    check_caller(state, caller)
    incarnation, version = state.incarnation, state.version
    if state.finished:
        return Decision(pb.SelectArmResponse(finished=True, incarnation=incarnation, version=version))
    known = round_of(state, caller.worker, request.round, recalled)
    if known is not None:
        names = list(state.arms)
        told = [names[at] for at in known.fallback_arms]
        return Decision(
            pb.SelectArmResponse(
                duplicate=True, pull=known.pull, fallback_arms=told, incarnation=incarnation, version=version
            )
        )
    return _selected(state, state.policy, caller.worker, request.round, alive, version)


def _selected(
    state: RunState, policy: Policy, worker: str, round: int, alive: Collection[str], version: int
) -> Decision[pb.SelectArmResponse]:
    """A new pull, chosen by the policy. `version`: the run's before it."""
    arm, *later = _choose(state, policy, worker, round, alive)
    names = list(state.arms)
    told = [names[at] for at in later]
    event = pb.Event(schema=SCHEMA)
    # Filled in place: a message that is given to another is copied.
    pulled = event.arm_pulled
    pulled.fallback_arms.extend(told)
    pull = pulled.pull
    pull.number = state.next_number
    pull.worker = worker
    pull.round = round
    pull.arm = names[arm]
    pull.chosen_by = pb.CHOSEN_BY_POLICY
    answer = pb.SelectArmResponse(pull=pull, fallback_arms=told, incarnation=state.incarnation, version=version + 1)
    return Decision(answer, [event], later)


def _choose(state: RunState, policy: Policy, worker: str, round: int, alive: Collection[str]) -> list[int]:
    """The policy's choice, and those after it: for a worker that loses the server before it can report."""
    # What the worker itself has open it has given up: it reports a round before it asks for the next.
    in_flight = [
        arm
        for other, rounds in sorted(state.open.items())
        if other != worker and other in alive
        for arm in rounds.values()
    ]
    return policy.choose(
        in_flight=in_flight,
        active=state.active,
        rng=state.randomness.at(worker, round),
        count=1 + FALLBACK_ARMS,
    )


def report(
    state: RunState, request: pb.ReportRewardRequest, recalled: Recalled | None = None
) -> Decision[pb.ReportRewardResponse]:
    """What came of (worker, round). The first report stands.

    Raises:
        ReportConflict: The round has a report with other numbers.
        DataLoss, Fenced, Invalid: See check_caller; and no such arm, or not the arm that was selected.
        NeedsHistory: See round_of.
    """
    check_caller(state, request.caller)
    known = round_of(state, request.caller.worker, request.round, recalled)
    answer = pb.ReportRewardResponse(incarnation=state.incarnation, version=state.version)
    earlier = known.report if known is not None else None
    if earlier is not None:
        _check_same(request, earlier)
        answer.duplicate = True
        answer.report.CopyFrom(earlier)
        return Decision(answer)
    given = known.pull if known is not None else None
    pull = _pull(state, request, given)
    event = reported(state, pull, request.measurement)
    stored = event.reward_reported
    if given is not None and given.number != pull.number:
        stored.superseded = given.number
    answer.report.CopyFrom(stored)
    answer.version += 1
    return Decision(answer, [event])


def report_and_select(
    state: RunState, request: pb.ReportRewardRequest, alive: Collection[str], recalled: Recalled | None = None
) -> Decision[pb.ReportRewardResponse]:
    """The report, and with it, if it is what nearly all are, the selection for `select_round`: after the first report
    of a pull that the policy chose, for a round that has not begun. Otherwise that is still to be asked for.

    Raises:
        As `report` does.
    """
    decision = report(state, request, recalled)
    answer, worker = decision.answer, state.workers[request.caller.worker]
    new = request.select_round >= worker.horizon and request.select_round not in worker.rounds
    if not decision.events or state.finished or request.chosen_by != pb.CHOSEN_BY_POLICY or not new:
        return decision
    # What the policy will be when the report is folded.
    policy = memory.clone(state.policy)
    pull = answer.report.pull
    policy.rewarded(pull.number, state.index[pull.arm], pull.worker, answer.report.reward)
    then = _selected(state, policy, pull.worker, request.select_round, alive, answer.version)
    answer.selected.CopyFrom(then.answer)
    return Decision(answer, [*decision.events, *then.events], then.later)


def reported(state: RunState, pull: pb.Pull, measurement: pb.Measurement) -> pb.Event:
    """A pull's report with its reward, as the state has it now."""
    event = pb.Event(schema=SCHEMA)
    stored = event.reward_reported
    stored.pull.CopyFrom(pull)
    stored.measurement.CopyFrom(measurement)
    if pull.chosen_by != pb.CHOSEN_BY_TAIL:
        stored.reward = _reward(state, pull, measurement)
    return event


def _reward(state: RunState, pull: pb.Pull, measurement: pb.Measurement) -> float:
    arm = state.index[pull.arm]
    if measurement.outcome == pb.OUTCOME_DIVERGED:
        return state.history.worst(arm)
    absolute = state.spec.reward == pb.REWARD_KIND_ABSOLUTE
    if not absolute and measurement.before <= 0:
        raise Invalid(f"measurement.before is {measurement.before}; relative rewards need a loss above 0")
    found = (reward.absolute if absolute else reward.relative)(measurement.before, measurement.after)
    return reward.per_cost(found, state.costs.relative(pull.worker, arm)) if state.spec.cost_aware else found


def check_arm(state: RunState, arm: str, chosen_by: pb.ChosenBy.ValueType) -> None:
    """The arm is one that this chooser may have chosen.

    Raises:
        Invalid: It is not; the message names the nearest.
    """
    if chosen_by == pb.CHOSEN_BY_TAIL:
        if arm != JOINT:
            raise Invalid(f"a round of the tail trains arm {JOINT}, not {arm!r}")
    elif arm not in state.arms:
        raise Invalid(unknown_arm(state, arm))


def unknown_arm(state: RunState, arm: str) -> str:
    """The sentence for an arm that the run does not have."""
    return f"run {state.run} has no arm {arm!r}, only {', '.join(state.arms)}{did_you_mean(arm, state.arms)}"


def _pull(state: RunState, request: pb.ReportRewardRequest, given: pb.Pull | None) -> pb.Pull:
    """The pull that a report belongs to: the one that was given, or one that begins with it."""
    caller = request.caller
    check_arm(state, request.arm, request.chosen_by)
    if request.chosen_by == pb.CHOSEN_BY_POLICY:
        if given is None and caller.incarnation:
            raise DataLoss(
                f"run {state.run} has no pull of worker {caller.worker} for round {request.round}, which the worker "
                "says the policy chose: the store has lost history; restore it from the worker's journal"
            )
        if given is None:
            raise Invalid(f"no arm was selected for round {request.round} of worker {caller.worker}")
        if given.arm != request.arm:
            raise Invalid(
                f"the policy chose arm {given.arm} for round {request.round} of worker {caller.worker}, not "
                f"{request.arm}; a worker that chose itself reports chosen_by FALLBACK"
            )
        return given
    if given is not None and request.chosen_by == pb.CHOSEN_BY_FALLBACK and given.arm == request.arm:
        # Both chose the same: it is the pull that was selected, whose answer the worker never saw.
        return given
    return pb.Pull(
        number=state.next_number,
        worker=caller.worker,
        round=request.round,
        arm=request.arm,
        chosen_by=request.chosen_by,
    )


def _check_same(request: pb.ReportRewardRequest, stored: pb.RewardReported) -> None:
    if request.arm != stored.pull.arm or request.measurement != stored.measurement:
        raise ReportConflict(
            f"round {request.round} of worker {request.caller.worker} already has a report with other numbers, "
            "and the first one stands",
            stored.SerializeToString(),
        )
