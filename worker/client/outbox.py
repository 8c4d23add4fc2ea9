"""What the trainer's thread and the courier's thread hand each other, and how long the one waits for the other.

An outage begins with a call that fails, or with a wait that is given up; it ends when a call succeeds and no report is
left to be told. In one outage the trainer's thread never waits longer than `patience` in all, counted from the
outage's beginning; after that every hand-over returns at once until the outage has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Pull
from worker.errors import WorkerError

# Reports that a restored history makes superfluous, and that are sent all the same: the trainer may be waiting for one,
# and the journal learns their rewards and numbers. As many as a server has at hand; looking up older ones is slow.
TOLD_AGAIN = 64

log = logging.getLogger(__name__)


@dataclass
class Question:
    """Which arm in this round? An answer without a pull: the run is finished. `failed`: a call did, meanwhile."""

    round: int
    answered: bool = False
    failed: bool = False
    pull: Pull | None = None


@dataclass
class Report:
    """What came of a round; `settled` once the server has stored or refused it, with a reply if it has stored it.

    Attributes:
        next_round: The round to choose an arm for as well, if there is one; None also once nobody waits any more.
    """

    round: int
    arm: str
    chosen_by: pb.ChosenBy.ValueType
    measurement: pb.Measurement
    next_round: int | None = None
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
        self.end: WorkerError | None = None
        self._patience = patience
        self._reports = deque(reports)
        # Since when there is an outage, and whether it still is one as far as calls go.
        self._away_since: float | None = None
        self._failing = False
        # The last question, or wait for a choice that a report asked for too, found no answer.
        self._in_doubt = False
        self._closing = False
        self._changed = threading.Condition()

    # The trainer's thread

    def ask(self, round: int) -> Question:
        """The arm for a round; comes back unanswered when patience is spent.

        After an unanswered one the next has a single try, and a report does not ask for a choice until one is answered:
        where a server takes reports but cannot choose, every round would spend the whole patience again.
        """
        question = Question(round)
        with self._changed:
            if self.finished:
                question.answered = True
            elif not self._out_of_patience():
                self.question = question
                self._changed.notify_all()
                self._wait(lambda: question.answered or (self._in_doubt and question.failed))
                # From here on an answer comes too late.
                self.question = None
                self._in_doubt = not question.answered
        return question

    def report(self, report: Report) -> None:
        """Queue a report; returns when it is settled or patience is spent."""
        with self._changed:
            if self._in_doubt:
                report.next_round = None
            self._reports.append(report)
            self._changed.notify_all()
            self._wait(lambda: report.settled)
            if report.next_round is not None:
                self._in_doubt = not report.settled
            # From here on a choice comes too late.
            report.next_round = None

    def finish(self) -> None:
        """Queue the run's end behind all reports; returns like `report`."""
        with self._changed:
            self.finishing = True
            self._changed.notify_all()
            self._wait(lambda: not self.finishing)

    def flush(self, timeout: float | None) -> int:
        """Wait for the queue to empty, at most so many seconds; returns how many reports are left. None: as long as the
        patience, and not at all for a server that has been away for longer than that."""

        def done() -> bool:
            empty = not (self._reports or self.finishing)
            hopeless = timeout is None and self._failing and self._out_of_patience()
            return empty or hopeless or self.end is not None or self._closing

        with self._changed:
            self._changed.wait_for(done, self._patience if timeout is None else timeout)
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
        """There is an outage."""
        return self._away_since is not None

    @property
    def oldest_report(self) -> Report | None:
        """The next report to send."""
        return self._reports[0] if self._reports else None

    def settle(
        self, reply: pb.ReportRewardResponse | None, choose: Callable[[int, pb.SelectArmResponse], object] | None = None
    ) -> None:
        """The oldest report is stored, or refused for good. `choose` is told what was selected with it, for which
        round, unless the trainer's thread has gone on by itself."""
        with self._changed:
            report = self._reports[0]
            if choose and reply and reply.HasField("selected") and report.next_round is not None:
                choose(report.next_round, reply.selected)
            self._reports.popleft()
            report.reply = reply
            report.settled = True
            # Before the trainer's thread wakes up, or it would choose its next arm by itself.
            self.is_back()
            self._changed.notify_all()

    def settle_through(self, round: int) -> None:
        """The reports up to a round are stored; all but the newest need not be sent."""
        with self._changed:
            while len(self._reports) > TOLD_AGAIN and self._reports[0].round <= round:
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

    def is_away(self, since: float, error: Exception | str) -> None:
        """A call that was made at this time of the monotonic clock has failed."""
        with self._changed:
            if self._closing:
                return
            self._failing = True
            if self.question is not None:
                self.question.failed = True
            if self._away_since is None:
                self._away_since = since
                log.warning("training goes on without the bandit server: %s", error)
            self._changed.notify_all()

    def is_back(self) -> None:
        """A call has succeeded."""
        with self._changed:
            self._failing = False
            if self._away_since is not None and not self._reports:
                log.warning("the bandit server is back after %.1f s", time.monotonic() - self._away_since)
                self._away_since = None
            self._changed.notify_all()

    def stop(self, error: WorkerError) -> None:
        """No call will be made any more."""
        with self._changed:
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
                if self._away_since is None:
                    self.is_away(began, f"no answer within {self._patience:g} s")
                return
            self._changed.wait(left)

    def _out_of_patience(self) -> bool:
        return self._away_since is not None and time.monotonic() - self._away_since >= self._patience
