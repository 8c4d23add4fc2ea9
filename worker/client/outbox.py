"""The reports and requests between the training thread and the sender's thread, and how long one waits for the other.

An outage begins with a failed call, or with a wait that was given up. It ends when a call succeeds and no report is
left to send. In one outage the training thread waits at most `patience` seconds in total, counted from the beginning of
the outage. After that no method makes it wait until the outage has ended.
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

# After a restore the server already has these reports. The newest ones are sent all the same: the training thread may
# be waiting for one, and the journal learns their rewards and numbers. The limit is the number of reports that a server
# has in memory; it is slow to look up older ones.
RESENT_REPORTS = 64

log = logging.getLogger(__name__)


@dataclass
class ArmRequest:
    """A request for the arm of a round.

    Attributes:
        round: The round's number.
        answered: Whether the server has answered.
        failed: Whether a call has failed since the request was made.
        pull: The answer; None in an answered request says that the run is finished.
    """

    round: int
    answered: bool = False
    failed: bool = False
    pull: Pull | None = None


@dataclass
class Report:
    """The result of a round, to be sent to the server.

    Attributes:
        round: The round's number.
        arm: The arm that was trained.
        chosen_by: Who chose the arm.
        measurement: The measured losses.
        next_round: The round to select an arm for in the same call; None if there is none, or nothing waits for it.
        settled: Whether the server has stored or refused the report.
        reply: The server's reply, if it has stored the report.
    """

    round: int
    arm: str
    chosen_by: pb.ChosenBy.ValueType
    measurement: pb.Measurement
    next_round: int | None = None
    settled: bool = False
    reply: pb.ReportRewardResponse | None = None


class Outbox:
    """The queue of reports, the open request for an arm, and the state of the outage.

    Args:
        patience: Seconds that the training thread waits in one outage, at most.
        reports: Unsent reports of earlier processes.

    Attributes:
        arm_request: The request that the training thread waits for, if there is one.
        finishing: Whether the run is to be finished once all reports are settled.
        finished: Whether the run has finished.
        error: The error that ended the sender; None while it runs.
    """

    def __init__(self, patience: float, reports: Iterable[Report]) -> None:
        self.arm_request: ArmRequest | None = None
        self.finishing = False
        self.finished = False
        self.error: WorkerError | None = None
        self._patience = patience
        self._reports = deque(reports)
        # The time at which the outage began, and whether the last call failed.
        self._away_since: float | None = None
        self._failing = False
        # Whether the last arm request, or the last wait for an arm that a report asked for, got no answer.
        self._selection_failed = False
        self._closing = False
        self._changed = threading.Condition()

    # Methods of the training thread

    def request_arm(self, round: int) -> ArmRequest:
        """Request the arm of a round; return the request, unanswered if the patience is spent.

        After an unanswered request, the next one waits for a single call, and reports do not ask for an arm until one
        is answered. Otherwise, with a server that accepts reports but cannot select, every round would spend the whole
        patience again.
        """
        request = ArmRequest(round)
        with self._changed:
            if self.finished:
                request.answered = True
            elif not self._out_of_patience():
                self.arm_request = request
                self._changed.notify_all()
                self._wait(lambda: request.answered or (self._selection_failed and request.failed))
                # From here on an answer comes too late.
                self.arm_request = None
                self._selection_failed = not request.answered
        return request

    def add_report(self, report: Report) -> None:
        """Queue a report, and wait until it is settled or the patience is spent."""
        with self._changed:
            if self._selection_failed:
                report.next_round = None
            self._reports.append(report)
            self._changed.notify_all()
            self._wait(lambda: report.settled)
            if report.next_round is not None:
                self._selection_failed = not report.settled
            # From here on a selected arm comes too late.
            report.next_round = None

    def finish_run(self) -> None:
        """Queue the end of the run behind all reports, and wait as `add_report` does."""
        with self._changed:
            self.finishing = True
            self._changed.notify_all()
            self._wait(lambda: not self.finishing)

    def flush(self, timeout: float | None) -> int:
        """Wait for the queue to empty; return the number of reports that are left.

        Args:
            timeout: Seconds to wait; None for the patience, or 0 in an outage whose patience is spent.
        """

        def done() -> bool:
            empty = not (self._reports or self.finishing)
            hopeless = timeout is None and self._failing and self._out_of_patience()
            return empty or hopeless or self.error is not None or self._closing

        with self._changed:
            self._changed.wait_for(done, self._patience if timeout is None else timeout)
            return len(self._reports)

    def close(self) -> None:
        """Wake up every thread that waits."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    # Methods of the sender's thread

    @property
    def closing(self) -> bool:
        """Whether the client is being closed."""
        return self._closing

    @property
    def in_outage(self) -> bool:
        """Whether there is an outage."""
        return self._away_since is not None

    @property
    def oldest_report(self) -> Report | None:
        """The next report to send."""
        return self._reports[0] if self._reports else None

    def settle_oldest(
        self,
        reply: pb.ReportRewardResponse | None,
        take_selection: Callable[[int, pb.SelectArmResponse], object] | None = None,
    ) -> None:
        """Mark the oldest report as stored, or as refused.

        Args:
            reply: The server's reply; None if it refused the report.
            take_selection: Called with the round and the selection that came with the reply, unless the training thread
                no longer waits for it.
        """
        with self._changed:
            report = self._reports[0]
            if take_selection and reply and reply.HasField("selected") and report.next_round is not None:
                take_selection(report.next_round, reply.selected)
            self._reports.popleft()
            report.reply = reply
            report.settled = True
            # Before the training thread wakes up, or it would choose its next arm by itself.
            self.mark_back()
            self._changed.notify_all()

    def settle_through(self, round: int) -> None:
        """Mark the reports up to a round as stored; all but the newest of them need not be sent."""
        with self._changed:
            while len(self._reports) > RESENT_REPORTS and self._reports[0].round <= round:
                self._reports.popleft().settled = True
            self._changed.notify_all()

    def answer_request(self, request: ArmRequest, take_pull: Callable[[], Pull | None]) -> None:
        """Answer a request with the result of `take_pull`, unless the training thread no longer waits for it.

        Args:
            request: The request.
            take_pull: Returns the pull; None if the run is finished.
        """
        with self._changed:
            self.mark_back()
            if self.arm_request is request:
                request.pull = take_pull()
                request.answered = True
                self.arm_request = None
                self._changed.notify_all()

    def mark_finished(self) -> None:
        """Note that the run has finished."""
        with self._changed:
            self.finishing = False
            self.finished = True
            self._changed.notify_all()

    def mark_away(self, since: float, error: Exception | str) -> None:
        """Note that a call failed.

        Args:
            since: The time at which the call was made, on the monotonic clock.
            error: The reason, for the log.
        """
        with self._changed:
            if self._closing:
                return
            self._failing = True
            if self.arm_request is not None:
                self.arm_request.failed = True
            if self._away_since is None:
                self._away_since = since
                log.warning("training continues without the bandit server: %s", error)
            self._changed.notify_all()

    def mark_back(self) -> None:
        """Note that a call succeeded."""
        with self._changed:
            self._failing = False
            if self._away_since is not None and not self._reports:
                log.warning("the bandit server is back after %.1f s", time.monotonic() - self._away_since)
                self._away_since = None
            self._changed.notify_all()

    def fail(self, error: WorkerError) -> None:
        """Note that the sender has ended with an error."""
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def wait_for_work(self, seconds: float) -> None:
        """Sleep until there is something to send, at most so long."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closing or self._reports or self.arm_request or self.finishing, max(0.0, seconds)
            )

    def sleep(self, seconds: float) -> None:
        """Sleep so long, or until the client is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing, seconds)

    def _wait(self, done: Callable[[], bool]) -> None:
        began = time.monotonic()
        while not (done() or self.error or self._closing):
            since = began if self._away_since is None else self._away_since
            left = since + self._patience - time.monotonic()
            if left <= 0:
                if self._away_since is None:
                    self.mark_away(began, f"no answer within {self._patience:g} s")
                return
            self._changed.wait(left)

    def _out_of_patience(self) -> bool:
        return self._away_since is not None and time.monotonic() - self._away_since >= self._patience
