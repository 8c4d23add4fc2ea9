"""The state of one worker of a run: its process and its recent rounds."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from bandit_server.run.reported_rounds import ReportedRounds
from protos.optima.v1 import bandit_pb2 as pb

# Rounds whose pull and report a state holds, per worker. A worker asks for older ones only when it resumes from a
# checkpoint that is older still; those are looked up in the history.
RECENT_ROUNDS = 64
# Tokens of fenced processes that a state holds, per worker.
FENCED_PROCESSES = 64


@dataclass(slots=True)
class Round:
    """A round that has begun. Stored as bytes, which take a fifth of the memory of messages and are seldom parsed.

    Attributes:
        fallback_arms: The fallback arms that the worker got with its pull, as indices.
        reported: Whether it has a report.
    """

    # The report, which contains the pull; before there is one, the pull.
    _message: bytes
    fallback_arms: array[int]
    reported: bool

    @classmethod
    def from_pull(
        cls, pull: pb.Pull, fallback_arms: Iterable[int] = (), report: pb.RewardReported | None = None
    ) -> Self:
        """Make a round from its pull and, once there is one, the report of that pull."""
        if not isinstance(fallback_arms, array):
            fallback_arms = array("H", fallback_arms)
        if report is None:
            return cls(pull.SerializeToString(), fallback_arms, False)
        return cls(report.SerializeToString(deterministic=True), fallback_arms, True)

    @property
    def pull(self) -> pb.Pull:
        """Its pull; a copy."""
        report = self.report
        return pb.Pull.FromString(self._message) if report is None else report.pull

    @property
    def report(self) -> pb.RewardReported | None:
        """Its report, if it has one; a copy."""
        return pb.RewardReported.FromString(self._message) if self.reported else None


@dataclass(slots=True)
class Worker:
    """One worker of a run.

    Attributes:
        process: Token of the current process.
        fenced: Tokens of the processes before it.
        info: The last information that one of its processes sent at its start.
        rounds: Its recent rounds, by number.
        horizon: Rounds before this one may have begun without being in `rounds`.
        reported_rounds: Its rounds that have a report.
        reports: The number of reports.
        last_round: The round it last selected an arm for, or reported.
    """

    process: str = ""
    fenced: deque[str] = field(default_factory=lambda: deque(maxlen=FENCED_PROCESSES))
    info: pb.WorkerInfo = field(default_factory=pb.WorkerInfo)
    rounds: dict[int, Round] = field(default_factory=dict)
    horizon: int = 0
    reported_rounds: ReportedRounds = field(default_factory=ReportedRounds)
    reports: int = 0
    last_round: int = 0

    def start(self, process: str, info: pb.WorkerInfo) -> None:
        """Make a process the current one, and fence those before it. Empty information leaves the last one in place."""
        if self.process and self.process != process:
            self.fenced.append(self.process)
        self.process = process
        if info.ByteSize():
            self.info = info

    def add_round(self, number: int, round: Round, recent_rounds: int = RECENT_ROUNDS) -> Round | None:
        """Add a round to the recent ones; return the one that is dropped for it, which may be the same."""
        self.rounds[number] = round
        if len(self.rounds) <= recent_rounds:
            return None
        oldest = min(self.rounds)
        self.horizon = max(self.horizon, oldest + 1)
        return self.rounds.pop(oldest)
