"""Who chooses in a run of the study: the server's own rules in this process, without a wire, or a fixed allocation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Protocol, TypeVar

from bandit_server.rpc import validation
from bandit_server.run import lifecycle, rounds
from bandit_server.run.decision import Decision
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
WORKER = "study"


class Chooser(Protocol):
    """Chooses arms for a run.

    Attributes:
        rewards: Of every round that it chose and that was paid, its arm and its reward.
    """

    rewards: list[tuple[str, float]]

    def select(self, round: int) -> pb.Pull:
        """The choice for a round."""

    def report(self, round: int, arm: str, measurement: pb.Measurement) -> None:
        """What came of it."""


class Shares:
    """Arms in fixed proportions, as evenly spread as they go: the static allocation that a bandit has to beat."""

    def __init__(self, shares: Mapping[str, float]) -> None:
        self._shares = {arm: share for arm, share in shares.items() if share > 0}
        self._played: Counter[str] = Counter()
        self.rewards: list[tuple[str, float]] = []

    def select(self, round: int) -> pb.Pull:
        """The arm that would be the least ahead of its share after this round."""
        arm = min(self._shares, key=lambda arm: (self._played[arm] + 1) / self._shares[arm])
        self._played[arm] += 1
        return pb.Pull(number=round, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY)

    def report(self, round: int, arm: str, measurement: pb.Measurement) -> None:
        """Changes nothing."""


class LocalRun:
    """One run with one worker.

    Attributes:
        rewards: Of every round that the policy chose: its arm and its reward.
    """

    def __init__(self, spec: pb.RunSpec) -> None:
        self._state = RunState(WORKER)
        self.rewards: list[tuple[str, float]] = []
        caller = pb.Caller(run=WORKER, worker=WORKER, process=WORKER)
        self._do(
            lifecycle.create(
                self._state, pb.CreateRunRequest(caller=caller, spec=validation.normalized_spec(spec)), WORKER
            )
        )

    def select(self, round: int) -> pb.Pull:
        """The policy's choice for a round."""
        return self._do(rounds.select(self._state, pb.SelectArmRequest(caller=self._caller(), round=round), ())).pull

    def report(self, round: int, arm: str, measurement: pb.Measurement) -> None:
        """What came of it."""
        request = pb.ReportRewardRequest(
            caller=self._caller(), round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY, measurement=measurement
        )
        self.rewards.append((arm, self._do(rounds.report(self._state, request)).report.reward))

    def _caller(self) -> pb.Caller:
        state = self._state
        seen = {"incarnation": state.incarnation, "seen_version": state.version}
        return pb.Caller(run=WORKER, worker=WORKER, process=WORKER, **seen)

    def _do(self, decision: Decision[T]) -> T:
        for event in decision.events:
            self._state.apply(event)
        return decision.answer
