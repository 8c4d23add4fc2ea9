"""Select an arm for a round, and accept the report of its outcome."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bandit_server.bandit import reward, serialization
from bandit_server.bandit.policy import Policy
from bandit_server.errors import DataLoss, Invalid, ReportConflict, did_you_mean
from bandit_server.run import leases
from bandit_server.run.decision import Decision
from bandit_server.run.fencing import check_caller
from bandit_server.run.old_rounds import OldRound, round_of
from bandit_server.run.state import JOINT, SCHEMA, RunState
from protos.optima.v1 import bandit_pb2 as pb

# Further choices sent with a selection, for a worker that loses the server.
FALLBACK_ARMS = 64


def select(
    state: RunState, request: pb.SelectArmRequest, alive: Collection[str], old_round: OldRound | None = None
) -> Decision[pb.SelectArmResponse]:
    """Select the arm for a worker's round, or repeat the selection.

    Args:
        state: The run.
        request: The request.
        alive: The workers whose open pulls count as in flight.
        old_round: The round as the history has it, once NeedsHistory has asked for it.

    Raises:
        DataLoss: As check_caller.
        Fenced: As check_caller.
        Invalid: As check_caller.
        NeedsHistory: As round_of.
    """
    caller = request.caller
    check_caller(state, caller)
    incarnation, version = state.incarnation, state.version
    if state.finished:
        return Decision(pb.SelectArmResponse(finished=True, incarnation=incarnation, version=version))
    known = round_of(state, caller.worker, request.round, old_round)
    if known is not None and (known.reported or not state.spec.exchange or state.modules.leased_by(known.pull.number)):
        names = list(state.arms)
        fallback_arms = [names[arm] for arm in known.fallback_arms]
        return Decision(
            pb.SelectArmResponse(
                duplicate=True, pull=known.pull, fallback_arms=fallback_arms, incarnation=incarnation, version=version
            )
        )
    if state.spec.exchange:
        return leases.select(state, caller.worker, request.round, alive)
    return _selected(state, state.policy, caller.worker, request.round, alive, version)


def _selected(
    state: RunState, policy: Policy, worker: str, round: int, alive: Collection[str], version: int
) -> Decision[pb.SelectArmResponse]:
    """Make a new pull, which the policy chooses. `version` is the run's before it."""
    arm, *fallback_arms = _choose(state, policy, worker, round, alive)
    names = list(state.arms)
    fallback_names = [names[fallback_arm] for fallback_arm in fallback_arms]
    event = pb.Event(schema=SCHEMA)
    # Filled in place: assigning a message to a field copies it.
    pulled = event.arm_pulled
    pulled.fallback_arms.extend(fallback_names)
    pull = pulled.pull
    pull.number = state.next_number
    pull.worker = worker
    pull.round = round
    pull.arm = names[arm]
    pull.chosen_by = pb.CHOSEN_BY_POLICY
    answer = pb.SelectArmResponse(
        pull=pull, fallback_arms=fallback_names, incarnation=state.incarnation, version=version + 1
    )
    return Decision(answer, [event], fallback_arms)


def _choose(state: RunState, policy: Policy, worker: str, round: int, alive: Collection[str]) -> list[int]:
    """Return the policy's choice, followed by the fallback arms."""
    # The worker's own open pulls were abandoned: it reports a round before it asks for the next.
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
    state: RunState, request: pb.ReportRewardRequest, old_round: OldRound | None = None
) -> Decision[pb.ReportRewardResponse]:
    """Accept the report of a worker's round. The first report stands.

    Args:
        state: The run.
        request: The request.
        old_round: The round as the history has it, once NeedsHistory has asked for it.

    Raises:
        ReportConflict: The round has a report with other numbers.
        DataLoss: As check_caller; or the run has no such pull, which the worker says the policy chose.
        Fenced: As check_caller.
        Invalid: As check_caller; or no such arm, or not the arm that was selected; or not the versions that its round
            makes.
        NeedsHistory: As round_of.
    """
    check_caller(state, request.caller)
    known = round_of(state, request.caller.worker, request.round, old_round)
    answer = pb.ReportRewardResponse(incarnation=state.incarnation, version=state.version)
    earlier = known.report if known is not None else None
    if earlier is not None:
        _check_same(request, earlier)
        answer.duplicate = True
        answer.report.CopyFrom(earlier)
        return Decision(answer)
    selected = known.pull if known is not None else None
    pull = _reported_pull(state, request, selected)
    outdated = state.spec.exchange and not state.modules.is_current(pull, request.made)
    event = reported(state, pull, request.measurement, request.made, outdated=outdated)
    stored = event.reward_reported
    if selected is not None and selected.number != pull.number:
        stored.superseded = selected.number
    answer.report.CopyFrom(stored)
    answer.version += 1
    return Decision(answer, [event])


def report_and_select(
    state: RunState, request: pb.ReportRewardRequest, alive: Collection[str], old_round: OldRound | None = None
) -> Decision[pb.ReportRewardResponse]:
    """Accept a report and, in the usual case, select the arm for `select_round` in the same append.

    The usual case is the first report of a pull that the policy chose, and a round that has not begun, in a run without
    an exchange. In any other case the answer has no selection, and SelectArm's rules are still to be applied.

    Args:
        state: The run.
        request: The request.
        alive: The workers whose open pulls count as in flight.
        old_round: The reported round as the history has it, once NeedsHistory has asked for it.

    Raises:
        ServerError: As report.
        NeedsHistory: As round_of.
    """
    decision = report(state, request, old_round)
    answer, worker = decision.answer, state.workers[request.caller.worker]
    unbegun = request.select_round >= worker.horizon and request.select_round not in worker.rounds
    unusual = state.finished or state.spec.exchange or request.chosen_by != pb.CHOSEN_BY_POLICY
    if not decision.events or unusual or not unbegun:
        return decision
    # The policy as it will be once the report is folded.
    policy = serialization.clone(state.policy)
    pull = answer.report.pull
    policy.rewarded(pull.number, state.index[pull.arm], pull.worker, answer.report.reward)
    selection = _selected(state, policy, pull.worker, request.select_round, alive, answer.version)
    answer.selected.CopyFrom(selection.answer)
    return Decision(answer, [*decision.events, *selection.events], selection.fallback_arms)


def reported(
    state: RunState,
    pull: pb.Pull,
    measurement: pb.Measurement,
    made: Sequence[pb.ModuleVersion] = (),
    *,
    outdated: bool = False,
) -> pb.Event:
    """Return the event that reports a pull, with the reward that follows from the present state.

    Args:
        state: The run.
        pull: The pull.
        measurement: Its measurement.
        made: The versions that it has made, in a run with an exchange.
        outdated: Whether it started from outdated versions, so that it has no reward and makes no version.

    Raises:
        Invalid: The measurement or the versions are not those of such a pull.
    """
    event = pb.Event(schema=SCHEMA)
    stored = event.reward_reported
    stored.pull.CopyFrom(pull)
    stored.measurement.CopyFrom(measurement)
    if made and not state.spec.exchange:
        raise Invalid(f"run {state.run} has no exchange, so the report of a round has no module versions (made)")
    if state.spec.exchange:
        leases.check_made(state, pull, measurement, made)
        if outdated:
            stored.outdated = True
            return event
        for version in made:
            new = stored.made.add()
            new.CopyFrom(version)
            new.worker, new.pull = pull.worker, pull.number
    if pull.chosen_by != pb.CHOSEN_BY_TAIL:
        stored.reward = _reward(state, pull, measurement, made)
    return event


def _reward(state: RunState, pull: pb.Pull, measurement: pb.Measurement, made: Sequence[pb.ModuleVersion]) -> float:
    arm = state.index[pull.arm]
    if measurement.outcome == pb.OUTCOME_DIVERGED:
        return state.history.worst(arm)
    before, after, name = measurement.before, measurement.after, "measurement.before"
    if state.spec.exchange:
        # The loss of the whole student, of which the worker has measured only the modules of its arm.
        before, after, name = state.modules.loss(pull.base), state.modules.loss(made), "the sum of the modules' losses"
    absolute = state.spec.reward == pb.REWARD_KIND_ABSOLUTE
    if not absolute and before <= 0:
        raise Invalid(f"{name} is {before}; relative rewards need a loss above 0")
    value = (reward.absolute if absolute else reward.relative)(before, after)
    return reward.per_cost(value, state.costs.relative(pull.worker, arm)) if state.spec.cost_aware else value


def check_arm(state: RunState, arm: str, chosen_by: pb.ChosenBy.ValueType) -> None:
    """Check that this chooser may have chosen the arm.

    Raises:
        Invalid: It may not; the message suggests the nearest name.
    """
    if chosen_by == pb.CHOSEN_BY_TAIL:
        if arm != JOINT:
            raise Invalid(f"a round of the tail trains arm {JOINT}, not {arm!r}")
    elif arm not in state.arms:
        raise Invalid(unknown_arm(state, arm))


def unknown_arm(state: RunState, arm: str) -> str:
    """Return the message for an arm that the run does not have."""
    return f"run {state.run} has no arm {arm!r}, only {', '.join(state.arms)}{did_you_mean(arm, state.arms)}"


def _reported_pull(state: RunState, request: pb.ReportRewardRequest, selected: pb.Pull | None) -> pb.Pull:
    """Return the pull that a report belongs to: the one that was selected, or one that begins with the report."""
    caller = request.caller
    check_arm(state, request.arm, request.chosen_by)
    if request.chosen_by == pb.CHOSEN_BY_POLICY:
        if selected is None and caller.incarnation:
            raise DataLoss(
                f"run {state.run} has no pull of worker {caller.worker} for round {request.round}, which the worker "
                "says the policy chose: the store has lost history; restore it from the worker's journal"
            )
        if selected is None:
            raise Invalid(f"no arm was selected for round {request.round} of worker {caller.worker}")
        if selected.arm != request.arm:
            raise Invalid(
                f"the policy chose arm {selected.arm} for round {request.round} of worker {caller.worker}, not "
                f"{request.arm}; a worker that chose itself reports chosen_by FALLBACK"
            )
        return selected
    if selected is not None and request.chosen_by == pb.CHOSEN_BY_FALLBACK and selected.arm == request.arm:
        # Both chose the same arm: this is the pull that was selected, though the worker never got the answer.
        return selected
    if selected is not None and request.chosen_by == pb.CHOSEN_BY_TAIL == selected.chosen_by:
        # With an exchange the server chooses the rounds of the tail too.
        return selected
    return pb.Pull(
        number=state.next_number,
        worker=caller.worker,
        round=request.round,
        arm=request.arm,
        chosen_by=request.chosen_by,
    )


def _check_same(request: pb.ReportRewardRequest, stored: pb.RewardReported) -> None:
    made = [(version.module, version.digest) for version in request.made]
    other = not stored.outdated and made != [(version.module, version.digest) for version in stored.made]
    if request.arm != stored.pull.arm or request.measurement != stored.measurement or other:
        raise ReportConflict(
            f"round {request.round} of worker {request.caller.worker} already has a report with other numbers, "
            "and the first one stands",
            stored.SerializeToString(),
        )
