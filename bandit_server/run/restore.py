"""Restore the rounds of a worker's journal that the store has lost."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from bandit_server.run.decision import Decision
from bandit_server.run.fencing import check_process
from bandit_server.run.lifecycle import check_spec, created, started
from bandit_server.run.rounds import check_arm, reported
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.run.worker import Round
from protos.optima.v1 import bandit_pb2 as pb


class RecordedRounds:
    """The part of the whole history that a restore needs.

    Args:
        worker: The worker that restores.
        events: The run's events, oldest first.

    Attributes:
        numbers: The numbers of all pulls.
        rounds: The rounds that the worker has begun, by number.
    """

    def __init__(self, worker: str, events: Iterable[pb.Event] = ()) -> None:
        self.numbers: set[int] = set()
        self.rounds: dict[int, Round] = {}
        self._worker = worker
        for event in events:
            self.add(event)

    def add(self, event: pb.Event) -> None:
        """Take in the next event."""
        match event.WhichOneof("kind"):
            case "arm_pulled":
                self._add(event.arm_pulled.pull, None)
            case "reward_reported":
                self._add(event.reward_reported.pull, event.reward_reported)

    def _add(self, pull: pb.Pull, report: pb.RewardReported | None) -> None:
        self.numbers.add(pull.number)
        if pull.worker == self._worker:
            self.rounds[pull.round] = Round.from_pull(pull, report=report)


def restore(
    state: RunState, request: pb.RestoreRunRequest, recorded: RecordedRounds, incarnation: str
) -> Decision[int]:
    """Add the rounds of a worker's journal that the history lacks. Idempotent.

    A new incarnation starts if the run no longer exists, or if this worker is the first to report what was lost of the
    present one. The other workers then find that theirs is outdated, and restore too, within the new incarnation.

    Args:
        state: The run.
        request: The request, with the journal's records.
        recorded: What the history has.
        incarnation: For a new incarnation.

    Returns:
        A decision whose answer is the number of rounds restored.

    Raises:
        SpecMismatch: The run exists with another spec.
        Fenced: A newer process of the worker has started.
        Invalid: A record names an arm that the run does not have.
    """
    restoring = _Restoring(state, request.caller, recorded)
    caller = request.caller
    missing = [record for record in request.records if restoring.lacks(record)]
    if state.version == 0:
        restoring.append(created(request.spec, incarnation))
        restoring.append(_restored(caller, incarnation))
    else:
        check_process(state, caller)
        check_spec(state, request.spec)
        ours = caller.incarnation == state.incarnation
        if ours and (caller.seen_version > state.version or (missing and not state.restored)):
            restoring.append(_restored(caller, incarnation))
        elif missing and not state.restored:
            restoring.append(_restored(caller, state.incarnation))
    for event in started(restoring.state, caller, request.info):
        restoring.append(event)
    restoring.reserve(missing)
    for record in missing:
        restoring.add(record)
    return Decision(len(missing), restoring.events)


def _restored(caller: pb.Caller, incarnation: str) -> pb.Event:
    restored = pb.RunRestored(
        incarnation=incarnation,
        lost_incarnation=caller.incarnation,
        lost_version=caller.seen_version,
        worker=caller.worker,
    )
    return pb.Event(schema=SCHEMA, run_restored=restored)


class _Restoring:
    """A copy of the state to which each event is applied as it is made: a reward depends on those before it."""

    def __init__(self, state: RunState, caller: pb.Caller, recorded: RecordedRounds) -> None:
        self.state = copy.deepcopy(state)
        self.events: list[pb.Event] = []
        self._worker = caller.worker
        self._recorded = recorded
        self._next_number = state.next_number

    def lacks(self, record: pb.JournalRecord) -> bool:
        """Return whether the record has something that the history lacks."""
        known = self._recorded.rounds.get(record.pull.round)
        return known is None or (not known.reported and record.HasField("measurement"))

    def reserve(self, records: list[pb.JournalRecord]) -> None:
        """Reserve the numbers that the records have: new ones are above them."""
        highest = max((record.pull.number for record in records if record.numbered), default=-1)
        self._next_number = max(self.state.next_number, highest + 1)

    def append(self, event: pb.Event) -> None:
        """Apply an event and add it to the decision's."""
        self.state.apply(event)
        self._recorded.add(event)
        self.events.append(event)

    def add(self, record: pb.JournalRecord) -> None:
        """Add the pull and the report of a record, as far as the history lacks them."""
        if not self.lacks(record):
            return
        journaled = record.pull
        check_arm(self.state, journaled.arm, journaled.chosen_by)
        known = self._recorded.rounds.get(journaled.round)
        adopted = known is not None and known.pull.arm == journaled.arm and journaled.chosen_by != pb.CHOSEN_BY_TAIL
        pull = known.pull if known is not None and adopted else self._renumbered_pull(record)
        if pull.chosen_by == pb.CHOSEN_BY_POLICY and not adopted:
            if known is not None:
                # Another arm was selected for this round since, but the worker has trained what its journal says.
                pull.chosen_by = pb.CHOSEN_BY_FALLBACK
            else:
                self.append(pb.Event(schema=SCHEMA, arm_pulled=pb.ArmPulled(pull=pull)))
        if record.HasField("measurement"):
            event = reported(self.state, pull, record.measurement, record.made, outdated=record.outdated)
            if known is not None and not adopted:
                event.reward_reported.superseded = known.pull.number
            self.append(event)

    def _renumbered_pull(self, record: pb.JournalRecord) -> pb.Pull:
        pull = pb.Pull()
        pull.CopyFrom(record.pull)
        pull.worker = self._worker
        if not record.numbered or pull.number in self._recorded.numbers:
            pull.number = self._next_number
            self._next_number += 1
        return pull
