"""Rounds that a run's state no longer holds: looked up in the history."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bandit_server.run.state import RunState
from bandit_server.run.worker import Round
from protos.optima.v1 import bandit_pb2 as pb


@dataclass(frozen=True, slots=True)
class OldRound:
    """A round that the state does not hold, as the history has it; None if it has not begun."""

    round: Round | None


class NeedsHistory(Exception):
    """A command is about a round that the state no longer holds: look it up, and run the command again with it."""

    def __init__(self, worker: str, round: int) -> None:
        super().__init__(f"round {round} of worker {worker} is only in the history")
        self.worker = worker
        self.round = round


def round_of(state: RunState, worker: str, round: int, old_round: OldRound | None) -> Round | None:
    """Return the worker's round; None if it has not begun.

    Raises:
        NeedsHistory: Only the history knows, and `old_round` is None.
    """
    known = state.workers[worker]
    if round in known.rounds or round >= known.horizon:
        return known.rounds.get(round)
    if old_round is None:
        raise NeedsHistory(worker, round)
    return old_round.round


class RoundSearch:
    """A search for one round of one worker in a run's events. Add these newest first, until it is done.

    Args:
        worker: The worker's name.
        round: The round's number.
        index: Indices of the run's arms, by name.

    Attributes:
        done: Whether older events have nothing more about the round.
        round: The round; None if it has not begun.
    """

    def __init__(self, worker: str, round: int, index: Mapping[str, int]) -> None:
        self.done = False
        self.round: Round | None = None
        self._worker = worker
        self._number = round
        self._index = index

    def add(self, event: pb.Event) -> None:
        """Take in the next older event."""
        match event.WhichOneof("kind"):
            case "reward_reported" if self._is_ours(event.reward_reported.pull):
                report = event.reward_reported
                self.round = Round.from_pull(report.pull, report=report)
                # A pull that the worker chose begins with its report.
                self.done = report.pull.chosen_by != pb.CHOSEN_BY_POLICY
            case "arm_pulled" if self._is_ours(event.arm_pulled.pull):
                pulled = event.arm_pulled
                later_report = self.round.report if self.round else None
                fallback_arms = map(self._index.__getitem__, pulled.fallback_arms)
                self.round = Round.from_pull(pulled.pull, fallback_arms, later_report)
                self.done = True

    def _is_ours(self, pull: pb.Pull) -> bool:
        return pull.round == self._number and pull.worker == self._worker
