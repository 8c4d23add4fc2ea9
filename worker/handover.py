"""What the trainer's thread and the courier's thread hand each other, and how long the one waits for the other.

In one outage the trainer's thread never waits longer than `patience` in all, counted from the outage's beginning;
after that every hand-over returns at once until the server is back.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protos.optima.v1 import bandit_pb2 as pb
from worker.errors import BanditError, BanditRefused, Fenced
from worker.journal import Pull

log = logging.getLogger(__name__)


@dataclass
class Question:
    """Which arm in this round? An answer without a pull: the run is finished."""

    round: int
    answered: bool = False
    pull: Pull | None = None


@dataclass
class Report:
    """What came of a round; `settled` once the server has stored or refused it, with a reply if it has stored it."""

    round: int
    arm: str
    chosen_by: pb.ChosenBy.ValueType
    measurement: pb.Measurement
    settled: bool = False
    reply: pb.ReportRewardResponse | None = None


class Handover:
    """The queue of reports, the one open question, and the state of the server as the courier finds it.

    Args:
        patience: Seconds that the trainer's thread waits in one outage, at most.
        reports: What earlier processes left unsent.

    Attributes:
        question: What the trainer's thread waits for, if it does.
        finishing: The run is to be ended once all reports are settled.
        finished: The run has ended.
        end: Why no call will be made any more; None while the courier works.
    """

    def __init__(self, patience: float, reports: Iterable[Report]) -> None:
        self.question: Question | None = None
        self.finishing = False
        self.finished = False
        self.end: Fenced | BanditRefused | None = None
        self._patience = patience
        self._reports = deque(reports)
        self._away_since: float | None = None
        self._closing = False
        self._changed = threading.Condition()

    # The trainer's thread

    def ask(self, round: int) -> Question:
        """The arm for a round; comes back unanswered when patience is spent."""
        question = Question(round)
        with self._changed:
            if self.finished:
                question.answered = True
            elif not self._out_of_patience():
                self.question = question
                self._changed.notify_all()
                self._wait(lambda: question.answered)
                # From here on an answer comes too late.
                self.question = None
        return question

    def report(self, report: Report) -> None:
        """Queue a report; returns when it is settled or patience is spent."""
        with self._changed:
            self._reports.append(report)
            self._changed.notify_all()
            self._wait(lambda: report.settled)

    def finish(self) -> None:
        """Queue the run's end behind all reports; returns like `report`."""
        with self._changed:
            self.finishing = True
            self._changed.notify_all()
            self._wait(lambda: not self.finishing)

    def flush(self, timeout: float) -> int:
        """Wait for the queue to empty, at most so many seconds; returns how many reports are left."""
        with self._changed:
            self._changed.wait_for(lambda: not (self._reports or self.finishing) or self.end or self._closing, timeout)
            return len(self._reports)

    def close(self) -> None:
        """Let go of everyone who waits."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    # The courier's thread

    @property
    def closing(self) -> bool:
        """The client is being closed."""
        return self._closing

    @property
    def away(self) -> bool:
        """The last call failed, or the trainer's thread has lost patience."""
        return self._away_since is not None

    @property
    def oldest_report(self) -> Report | None:
        """The next report to send."""
        return self._reports[0] if self._reports else None

    def settle(self, reply: pb.ReportRewardResponse | None) -> None:
        """The oldest report is stored, or refused for good."""
        with self._changed:
            # Before the trainer's thread wakes up, or it would choose its next arm by itself.
            self.is_back()
            report = self._reports.popleft()
            report.reply = reply
            report.settled = True
            self._changed.notify_all()

    def settle_through(self, round: int) -> None:
        """The reports up to a round are stored. The newest is sent all the same, for its reward: the trainer may be
        waiting for it."""
        with self._changed:
            while len(self._reports) > 1 and self._reports[0].round <= round:
                self._reports.popleft().settled = True
            self._changed.notify_all()

    def answer(self, question: Question, decide: Callable[[], Pull | None]) -> None:
        """Answer with what `decide` returns (None: finished), unless the trainer's thread has gone on by itself."""
        with self._changed:
            self.is_back()
            if self.question is question:
                question.pull = decide()
                question.answered = True
                self.question = None
                self._changed.notify_all()

    def has_finished(self) -> None:
        """The run has ended."""
        with self._changed:
            self.finishing = False
            self.finished = True
            self._changed.notify_all()

    def is_away(self, since: float, error: BanditError | str) -> None:
        """An outage, if there is not one already, that began at this time of the monotonic clock."""
        with self._changed:
            if self._away_since is None and not self._closing:
                self._away_since = since
                log.warning("training goes on without the bandit server: %s", error)
                self._changed.notify_all()

    def is_back(self) -> None:
        """A call has succeeded."""
        with self._changed:
            if self._away_since is not None:
                log.warning("the bandit server is back after %.1f s", time.monotonic() - self._away_since)
                self._away_since = None
                self._changed.notify_all()

    def stop(self, error: Fenced | BanditRefused) -> None:
        """The server will never serve this process again."""
        with self._changed:
            log.warning("no more calls to the bandit server: %s", error)
            self.end = error
            self._changed.notify_all()

    def wait_for_work(self, seconds: float) -> None:
        """Sleep until there is something to send, at most so long."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._reports or self.question or self.finishing, max(0.0, seconds)
            )

    def pause(self, seconds: float) -> None:
        """Sleep so long, or until the client is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _wait(self, done: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not (done() or self.end or self._closing):
            since = began if self._away_since is None else self._away_since
            left = since + self._patience - time.monotonic()
            if left <= 0:
                self.is_away(began, f"no answer within {self._patience:g} s")
                return
            self._changed.wait(left)

    def _out_of_patience(self) -> bool:
        return self._away_since is not None and time.monotonic() - self._away_since >= self._patience
