"""What a run remembers of one worker: its process, and its last rounds."""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from bandit_server.run.reported_rounds import Settled
from protos.optima.v1 import bandit_pb2 as pb

# Rounds of which pull and report are at hand. A worker asks for older ones only when it resumes from a checkpoint
# that is older still; those are looked up in the history.
RECENT_ROUNDS = 64
# Tokens of earlier processes that are known to be fenced.
FENCED_PROCESSES = 64


@dataclass(slots=True)
class Round:
    """A round that has begun. Kept as bytes, which take a fifth of what messages do, and read only now and then.

    Attributes:
        fallback_arms: What the worker was told with its pull: indices of arms.
        reported: Whether it has a report.
    """

    # Its report, which has the pull in it; its pull while it has none.
    _told: bytes
    fallback_arms: array[int]
    reported: bool

    @classmethod
    def of(cls, pull: pb.Pull, fallback_arms: Iterable[int] = (), report: pb.RewardReported | None = None) -> Self:
        """A round with its pull, and with its report, which is of that pull, once there is one."""
        if not isinstance(fallback_arms, array):
            fallback_arms = array("H", fallback_arms)
        if report is None:
            return cls(pull.SerializeToString(), fallback_arms, False)
        return cls(report.SerializeToString(deterministic=True), fallback_arms, True)

    @property
    def pull(self) -> pb.Pull:
        """Its pull, the caller's to change."""
        report = self.report
        return pb.Pull.FromString(self._told) if report is None else report.pull

    @property
    def report(self) -> pb.RewardReported | None:
        """Its report, if it has one, the caller's to change."""
        return pb.RewardReported.FromString(self._told) if self.reported else None


@dataclass(slots=True)
class Worker:
    """One worker of a run.

    Attributes:
        process: Token of the process that counts.
        fenced: Tokens of the processes before it.
        info: What its processes told at their start, last.
        rounds: Its last rounds, by number.
        horizon: Rounds before this one may have begun without being in `rounds`.
        settled: Its rounds that have a report.
        reports: How many those are.
        last_round: The round it was last given an arm for, or reported.
    """

    process: str = ""
    fenced: deque[str] = field(default_factory=lambda: deque(maxlen=FENCED_PROCESSES))
    info: pb.WorkerInfo = field(default_factory=pb.WorkerInfo)
    rounds: dict[int, Round] = field(default_factory=dict)
    horizon: int = 0
    settled: Settled = field(default_factory=Settled)
    reports: int = 0
    last_round: int = 0

    def start(self, process: str, info: pb.WorkerInfo) -> None:
        """A process has started; those before it are fenced. One that tells nothing of itself is no job of its own."""
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
