"""Carries a worker's words to the bandit server, one at a time and in order, on a thread of its own.

This thread alone calls the server: what is queued goes first, so that no report overtakes an older one, and an arm
is asked for only when every reward before it is told. It outlives any outage; only a newer process of the worker,
a deleted run, or a journal that cannot be written ends it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Journal, Pull
from worker.client.outbox import Handover, Question, Report
from worker.client.rpc import Wire
from worker.errors import BanditError, BanditRefused, BanditUnreachable, Fenced, JournalError, RunLost

HEARTBEAT_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# A server takes half a second for 2,000, and serves nobody else meanwhile.
RECORDS_A_CALL = 500
# gRPC refuses messages above 4 MiB by default; half of it leaves room for the rest of the request.
BYTES_A_CALL = 2 * 1024 * 1024

# The server will never serve this worker again; other refusals may pass, like that of a token being replaced.
FINAL = frozenset({"run_deleted", "spec_mismatch"})
# The server will never take this very report.
UNACCEPTABLE = frozenset({"invalid", "run_finished", "arm_required"})

log = logging.getLogger(__name__)


class Courier:
    """The thread, and what it knows of the run.

    Args:
        wire: The calls.
        handover: Shared with the trainer's thread.
        journal: Begun.
        run: The run's name.
        worker: The worker's id.
        spec: What the run is.
        info: What the worker tells of itself.
    """

    def __init__(
        self,
        wire: Wire,
        handover: Handover,
        journal: Journal,
        *,
        run: str,
        worker: str,
        spec: pb.RunSpec,
        info: pb.WorkerInfo,
    ) -> None:
        self._wire = wire
        self._handover = handover
        self._journal = journal
        self._spec = spec
        self._info = info
        self._caller = pb.Caller(
            run=run,
            worker=worker,
            process=secrets.token_hex(8),
            incarnation=journal.incarnation,
            seen_version=journal.version,
        )
        self._pulse = (0, 0, 0.0)
        self._next_pulse = 0.0
        self._joined: pb.CreateRunResponse | None = None
        self._lost = False
        # Whether the server still has what it has acknowledged is to be found out.
        self._unsure = True
        self._thread = threading.Thread(target=self._carry, name="bandit-courier", daemon=True)

    def start(self, patience: float, offline: bool) -> pb.CreateRunResponse | None:
        """Join the run, then start the thread. None: the server is away and `offline` allows that.

        Raises:
            BanditUnreachable: The server is away for longer than the patience, and `offline` is false.
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        began = time.monotonic()
        while self._joined is None:
            try:
                self._carry_one()
            except RunLost:
                self._lost = True
            except BanditUnreachable as error:
                if time.monotonic() - began >= patience:
                    if not offline:
                        raise
                    self._handover.is_away(began, error)
                    break
                self._handover.pause(FIRST_PAUSE_SECONDS)
        self._thread.start()
        return self._joined

    def pulse(self, round: int, step: int, steps_per_second: float) -> None:
        """What the next heartbeats tell."""
        self._pulse = (round, step, steps_per_second)

    def stop(self, hang_up: Callable[[], None]) -> None:
        """End the thread; `hang_up` ends the call it may be in."""
        self._handover.close()
        hang_up()
        if self._thread.is_alive():
            self._thread.join()

    def _carry(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._handover.closing:
            began = time.monotonic()
            try:
                if self._carry_one():
                    self._handover.is_back()
                    pause = FIRST_PAUSE_SECONDS
                else:
                    self._handover.wait_for_work(self._next_pulse - time.monotonic())
                continue
            except RunLost as error:
                log.warning("%s; this worker's journal gives it back", error)
                self._lost = True
            except (Fenced, JournalError) as error:
                self._handover.stop(error)
                return
            except BanditRefused as error:
                if error.reason in FINAL:
                    log.warning("training goes on without the bandit server: %s", error)
                    self._handover.stop(error)
                    return
                self._handover.is_away(began, error)
            except BanditUnreachable as error:
                self._handover.is_away(began, error)
            except Exception as error:
                log.exception("the bandit server's answer makes no sense")
                self._handover.stop(BanditError(f"the bandit server's answer makes no sense: {error!r}"))
                return
            self._unsure = True
            self._handover.pause(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _carry_one(self) -> bool:
        """The most urgent call; false if there is none."""
        if self._lost:
            self._restore()
        elif self._joined is None:
            self._join()
        elif self._unsure:
            self._confirm()
        elif report := self._handover.oldest_report:
            self._report(report)
        elif question := self._handover.question:
            self._select(question)
        elif self._handover.finishing:
            self._finish()
        elif self._handover.away or time.monotonic() >= self._next_pulse:
            self._beat()
        else:
            return False
        return True

    def _join(self) -> None:
        request = pb.CreateRunRequest(caller=self._caller, spec=self._spec, info=self._info)
        response = self._wire.create_run(request)
        run = response.run
        self._saw(run.incarnation, run.version)
        self._journal.joined(self._caller.process, run.incarnation, run.version)
        if run.state == pb.RUN_STATE_FINISHED:
            self._handover.has_finished()
        self._joined = response

    def _confirm(self) -> None:
        """The server still has this worker's last report. Its version does not tell: where the end of a history was
        lost, other workers may have filled it up again."""
        last = self._journal.last_stored
        if last is not None:
            request = pb.ReportRewardRequest(
                caller=self._caller,
                round=last.pull.round,
                arm=last.pull.arm,
                chosen_by=last.pull.chosen_by,
                measurement=last.measurement,
            )
            try:
                known = self._wire.report_reward(request).duplicate
            except BanditRefused as error:
                if error.reason not in UNACCEPTABLE:
                    raise
                known = False
            if not known:
                raise RunLost(f"round {last.pull.round} was reported, and the bandit server has forgotten it")
        self._unsure = False

    def _select(self, question: Question) -> None:
        response = self._wire.select_arm(pb.SelectArmRequest(caller=self._caller, round=question.round))
        self._heard(response)
        self._handover.answer(question, lambda: self._chosen(question.round, response))

    def _heard(self, response: pb.SelectArmResponse) -> None:
        self._saw(response.incarnation, response.version)
        if response.finished:
            self._handover.has_finished()

    def _chosen(self, round: int, response: pb.SelectArmResponse) -> Pull | None:
        """The pull, journalled; None if the run is finished."""
        if response.finished:
            return None
        pull = Pull(response.pull.arm, response.pull.number, response.pull.chosen_by)
        self._journal.pulled(round, pull, list(response.fallback_arms), response.incarnation, response.version)
        return pull

    def _report(self, report: Report) -> None:
        request = pb.ReportRewardRequest(
            caller=self._caller,
            round=report.round,
            arm=report.arm,
            chosen_by=report.chosen_by,
            measurement=report.measurement,
            select_round=report.next_round,
        )
        try:
            reply = self._wire.report_reward(request)
        except BanditRefused as error:
            if error.reason not in UNACCEPTABLE:
                raise
            log.warning("the bandit does not learn of round %d: %s", report.round, error)
            self._journal.refused(report.round, str(error))
            self._handover.settle(None)
        else:
            self._saw(reply.incarnation, reply.version)
            self._journal.replied(report.round, reply)
            if reply.HasField("selected"):
                self._heard(reply.selected)
            self._handover.settle(reply, self._chosen)

    def _finish(self) -> None:
        actor = f"worker {self._caller.worker}"
        self._wire.finish_run(pb.FinishRunRequest(run=self._caller.run, actor=actor))
        self._handover.has_finished()

    def _beat(self) -> None:
        round, step, steps_per_second = self._pulse
        response = self._wire.heartbeat(
            pb.HeartbeatRequest(
                caller=self._caller,
                round=round,
                step=step,
                steps_per_second=steps_per_second,
                ranks=self._info.ranks,
                versions=self._info.versions,
            )
        )
        self._next_pulse = time.monotonic() + HEARTBEAT_SECONDS
        self._saw(response.incarnation, response.version)

    def _restore(self) -> None:
        """Give the whole journal back; until the last of it is in, the run counts as lost."""
        given = self._journal.records()
        through = max((record.pull.round for record in given if record.HasField("measurement")), default=-1)
        answers = [answer for records in _chunks(given) for answer in self._give_back(records)]
        if len({answer.run.incarnation for answer in answers}) > 1:
            # Lost again in between, the first part with it.
            return
        self._journal.restored(self._caller.incarnation, self._caller.seen_version, through)
        self._handover.settle_through(through)
        self._lost = False
        log.warning("%d rounds were given back to the bandit server", sum(answer.restored for answer in answers))

    def _give_back(self, records: list[pb.JournalRecord]) -> list[pb.RestoreRunResponse]:
        """Give some rounds back. One that the server will not have is left out, and holds up no other."""
        request = pb.RestoreRunRequest(caller=self._caller, spec=self._spec, info=self._info, records=records)
        try:
            answer = self._wire.restore_run(request)
        except BanditRefused as error:
            if error.reason not in UNACCEPTABLE or not records:
                raise
            if len(records) > 1:
                half = len(records) // 2
                return self._give_back(records[:half]) + self._give_back(records[half:])
            # Unless it is not the round that is refused.
            answers = self._give_back([])
            log.warning("the bandit does not learn of round %d: %s", records[0].pull.round, error)
            self._journal.refused(records[0].pull.round, str(error))
            return answers
        self._saw(answer.run.incarnation, answer.run.version)
        return [answer]

    def _saw(self, incarnation: str, version: int) -> None:
        same = incarnation == self._caller.incarnation
        self._caller.seen_version = max(version, self._caller.seen_version) if same else version
        self._caller.incarnation = incarnation


def _chunks(records: list[pb.JournalRecord]) -> Iterator[list[pb.JournalRecord]]:
    """The records in order, as many at a time as one call may carry; one empty chunk for no records."""
    chunk: list[pb.JournalRecord] = []
    size = 0
    for record in records:
        length = record.ByteSize()
        if chunk and (len(chunk) == RECORDS_A_CALL or size + length > BYTES_A_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += length
    yield chunk
