"""Choosers for the runs of the study: the server's own rules within this process, or a fixed allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TypeVar

from bandit_server.rpc import validation
from bandit_server.run import lifecycle, rounds
from bandit_server.run.decision import Decision
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.training.chooser import measurement
from worker.training.metrics import RoundRecord

T = TypeVar("T")
WORKER = "study"


class Shares:
    """A chooser that plays arms in fixed proportions, spread evenly: the static allocation that a bandit has to beat.

    Args:
        shares: The proportions, of any sum.
    """

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = {arm: share for arm, share in shares.items() if share > 0}
        self._played: Counter[str] = Counter()

    def select(self, round: int) -> Pull:
        """Return the arm that is the least ahead of its share after this round."""
        arm = min(self._shares, key=lambda arm: (self._played[arm] + 1) / self._shares[arm])
        self._played[arm] += 1
        return Pull(arm, round, pb.CHOSEN_BY_POLICY)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> None:
        """Ignore the results: the proportions are fixed."""


class LocalRun:
    """A chooser that applies the server's rules to a run with one worker, without server and store.

    Args:
        spec: The run's spec.
    """

    def __init__(self, spec: pb.RunSpec) -> None:
        self._state = RunState(WORKER)
        caller = pb.Caller(run=WORKER, worker=WORKER, process=WORKER)
        request = pb.CreateRunRequest(caller=caller, spec=validation.normalized_spec(spec))
        self._apply(lifecycle.create(self._state, request, WORKER))

    def select(self, round: int) -> Pull:
        """Return the policy's choice."""
        request = pb.SelectArmRequest(caller=self._caller(), round=round)
        pull = self._apply(rounds.select(self._state, request, ())).pull
        return Pull(pull.arm, pull.number, pull.chosen_by)

    def report(self, pull: Pull, record: RoundRecord, *, last: bool) -> float:
        """Apply a round's report and return its reward."""
        request = pb.ReportRewardRequest(
            caller=self._caller(),
            round=record.round,
            arm=pull.arm,
            chosen_by=pull.chosen_by,
            measurement=measurement(record),
        )
        return self._apply(rounds.report(self._state, request)).report.reward

    def _caller(self) -> pb.Caller:
        state = self._state
        return pb.Caller(
            run=WORKER, worker=WORKER, process=WORKER, incarnation=state.incarnation, seen_version=state.version
        )

    def _apply(self, decision: Decision[T]) -> T:
        for event in decision.events:
            self._state.apply(event)
        return decision.answer
