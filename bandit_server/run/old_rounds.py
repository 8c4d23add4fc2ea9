"""Rounds too old to be at hand: read back from the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bandit_server.run.state import RunState
from bandit_server.run.worker import Round
from protos.optima.v1 import bandit_pb2 as pb


@dataclass(frozen=True, slots=True)
class Recalled:
    """What the history says of a round that the state does not have at hand; None: it has not begun."""

    round: Round | None


class NeedsHistory(Exception):
    """A command is about a round too old to be at hand: recall it, and give the command what was found."""

    def __init__(self, worker: str, round: int) -> None:
        super().__init__(f"round {round} of worker {worker} is not at hand")
        self.worker = worker
        self.round = round


def round_of(state: RunState, worker: str, round: int, recalled: Recalled | None) -> Round | None:
    """The worker's round, if it has begun.

    Raises:
        NeedsHistory: Only the history knows.
    """
    known = state.workers[worker]
    if round in known.rounds or round >= known.horizon:
        return known.rounds.get(round)
    if recalled is None:
        raise NeedsHistory(worker, round)
    return recalled.round


class Recall:
    """Looks for one round of one worker; to be given the run's events, newest first, until it is `done`.
    `index`: of the run's arms, by name."""

    def __init__(self, worker: str, round: int, index: Mapping[str, int]) -> None:
        self.done = False
        self.found: Round | None = None
        self._worker = worker
        self._round = round
        self._index = index

    def give(self, event: pb.Event) -> None:
        """The next older event."""
        match event.WhichOneof("kind"):
            case "reward_reported" if self._is_ours(event.reward_reported.pull):
                report = event.reward_reported
                self.found = Round.of(report.pull, report=report)
                # A pull that the worker chose begins with its report.
                self.done = report.pull.chosen_by != pb.CHOSEN_BY_POLICY
            case "arm_pulled" if self._is_ours(event.arm_pulled.pull):
                pulled = event.arm_pulled
                report_found = self.found.report if self.found else None
                self.found = Round.of(pulled.pull, map(self._index.__getitem__, pulled.fallback_arms), report_found)
                self.done = True

    def _is_ours(self, pull: pb.Pull) -> bool:
        return pull.round == self._round and pull.worker == self._worker
