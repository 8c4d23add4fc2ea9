"""The thread that sends a worker's reports and requests to the bandit server, one at a time and in order.

Only this thread calls the server. Queued reports go first, so that no report overtakes an older one and an arm is
selected only when the server has every earlier reward. The thread survives any outage. Only three things end it: a
newer process of the worker, a deleted run (or one with another spec), and a journal that cannot be written.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.journal import Journal, Pull
from worker.client.outbox import ArmRequest, Outbox, Report
from worker.client.rpc import BanditRpc
from worker.errors import BanditError, BanditRefused, BanditUnreachable, Fenced, JournalError, RunLost

HEARTBEAT_SECONDS = 3.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# A server takes half a second for 2,000, and serves nobody else meanwhile.
MAX_RECORDS_PER_CALL = 500
# gRPC refuses messages above 4 MiB by default; half of it leaves room for the rest of the request.
MAX_BYTES_PER_CALL = 2 * 1024 * 1024

# The server will never serve this worker again. Other refusals may pass, such as that of a token being replaced.
FINAL_REASONS = frozenset({"run_deleted", "spec_mismatch"})
# The server will never accept this report.
REJECTED_REASONS = frozenset({"invalid", "run_finished", "arm_required"})

log = logging.getLogger(__name__)


class Sender:
    """The sender's thread and its state.

    Args:
        rpc: The calls to the server.
        outbox: Shared with the training thread.
        journal: The worker's journal, with its first line written.
        run: The run's name.
        worker: The worker's id.
        spec: The run's spec.
        info: The worker's description of itself.
    """

    def __init__(
        self,
        rpc: BanditRpc,
        outbox: Outbox,
        journal: Journal,
        *,
        run: str,
        worker: str,
        spec: pb.RunSpec,
        info: pb.WorkerInfo,
    ) -> None:
        self._rpc = rpc
        self._outbox = outbox
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
        # Round, step, steps per second.
        self._heartbeat = (0, 0, 0.0)
        self._next_heartbeat = 0.0
        self._joined: pb.CreateRunResponse | None = None
        self._lost = False
        # Whether the server may have lost history that it has acknowledged; to be checked before the next report.
        self._unconfirmed = True
        self._thread = threading.Thread(target=self._send_until_closed, name="bandit-sender", daemon=True)

    def start(self, patience: float, offline: bool) -> pb.CreateRunResponse | None:
        """Join the run, then start the thread.

        Args:
            patience: Seconds to try.
            offline: Whether to start even if the server cannot be reached.

        Returns:
            The server's reply; None if it cannot be reached and `offline` is true.

        Raises:
            BanditUnreachable: The server cannot be reached within the patience, and `offline` is false.
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        began = time.monotonic()
        while self._joined is None:
            try:
                self._send_next()
            except RunLost:
                self._lost = True
            except BanditUnreachable as error:
                if time.monotonic() - began >= patience:
                    if not offline:
                        raise
                    self._outbox.mark_away(began, error)
                    break
                self._outbox.sleep(FIRST_PAUSE_SECONDS)
        self._thread.start()
        return self._joined

    def set_heartbeat(self, round: int, step: int, steps_per_second: float) -> None:
        """Set what the next heartbeats say."""
        self._heartbeat = (round, step, steps_per_second)

    def stop(self, close_connection: Callable[[], None]) -> None:
        """End the thread.

        Args:
            close_connection: Ends the call that may be in progress.
        """
        self._outbox.close()
        close_connection()
        if self._thread.is_alive():
            self._thread.join()

    def _send_until_closed(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._outbox.closing:
            began = time.monotonic()
            try:
                if self._send_next():
                    self._outbox.mark_back()
                    pause = FIRST_PAUSE_SECONDS
                else:
                    self._outbox.wait_for_work(self._next_heartbeat - time.monotonic())
                continue
            except RunLost as error:
                log.warning("%s; restoring it from this worker's journal", error)
                self._lost = True
            except (Fenced, JournalError) as error:
                self._outbox.fail(error)
                return
            except BanditRefused as error:
                if error.reason in FINAL_REASONS:
                    log.warning("training continues without the bandit server: %s", error)
                    self._outbox.fail(error)
                    return
                self._outbox.mark_away(began, error)
            except BanditUnreachable as error:
                self._outbox.mark_away(began, error)
            except Exception as error:
                log.exception("unexpected answer of the bandit server")
                self._outbox.fail(BanditError(f"unexpected answer of the bandit server: {error!r}"))
                return
            self._unconfirmed = True
            self._outbox.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _send_next(self) -> bool:
        """Make the most urgent call; return False if there is none."""
        if self._lost:
            self._restore()
        elif self._joined is None:
            self._join()
        elif self._unconfirmed:
            self._confirm()
        elif report := self._outbox.oldest_report:
            self._report(report)
        elif request := self._outbox.arm_request:
            self._select(request)
        elif self._outbox.finishing:
            self._finish()
        elif self._outbox.in_outage or time.monotonic() >= self._next_heartbeat:
            self._send_heartbeat()
        else:
            return False
        return True

    def _join(self) -> None:
        request = pb.CreateRunRequest(caller=self._caller, spec=self._spec, info=self._info)
        response = self._rpc.create_run(request)
        run = response.run
        self._note_version(run.incarnation, run.version)
        self._journal.record_join(self._caller.process, run.incarnation, run.version)
        if run.state == pb.RUN_STATE_FINISHED:
            self._outbox.mark_finished()
        self._joined = response

    def _confirm(self) -> None:
        """Check that the server still has this worker's last report; raise RunLost if not.

        The run's version does not show it: where the end of a history was lost, other workers may have added as much
        again.
        """
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
                known = self._rpc.report_reward(request).duplicate
            except BanditRefused as error:
                if error.reason not in REJECTED_REASONS:
                    raise
                known = False
            if not known:
                raise RunLost(f"the bandit server has lost the report of round {last.pull.round}")
        self._unconfirmed = False

    def _select(self, request: ArmRequest) -> None:
        response = self._rpc.select_arm(pb.SelectArmRequest(caller=self._caller, round=request.round))
        self._note_selection(response)
        self._outbox.answer_request(request, lambda: self._record_pull(request.round, response))

    def _note_selection(self, response: pb.SelectArmResponse) -> None:
        self._note_version(response.incarnation, response.version)
        if response.finished:
            self._outbox.mark_finished()

    def _record_pull(self, round: int, response: pb.SelectArmResponse) -> Pull | None:
        """Journal the selected pull and return it; return None if the run is finished."""
        if response.finished:
            return None
        pull = Pull(response.pull.arm, response.pull.number, response.pull.chosen_by)
        self._journal.record_pull(round, pull, list(response.fallback_arms), response.incarnation, response.version)
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
            reply = self._rpc.report_reward(request)
        except BanditRefused as error:
            if error.reason not in REJECTED_REASONS:
                raise
            self._record_refusal(report.round, error)
            self._outbox.settle_oldest(None)
        else:
            self._note_version(reply.incarnation, reply.version)
            self._journal.record_reply(report.round, reply)
            if reply.HasField("selected"):
                self._note_selection(reply.selected)
            self._outbox.settle_oldest(reply, self._record_pull)

    def _record_refusal(self, round: int, error: BanditRefused) -> None:
        log.warning("the report of round %d is refused, and the round does not count: %s", round, error)
        self._journal.record_refusal(round, str(error))

    def _finish(self) -> None:
        actor = f"worker {self._caller.worker}"
        self._rpc.finish_run(pb.FinishRunRequest(run=self._caller.run, actor=actor))
        self._outbox.mark_finished()

    def _send_heartbeat(self) -> None:
        round, step, steps_per_second = self._heartbeat
        response = self._rpc.heartbeat(
            pb.HeartbeatRequest(
                caller=self._caller,
                round=round,
                step=step,
                steps_per_second=steps_per_second,
                ranks=self._info.ranks,
                versions=self._info.versions,
            )
        )
        self._next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
        self._note_version(response.incarnation, response.version)

    def _restore(self) -> None:
        """Send the whole journal; until the last record has arrived, the run counts as lost."""
        journal = self._journal.records()
        through = max((record.pull.round for record in journal if record.HasField("measurement")), default=-1)
        responses = [response for records in _chunks(journal) for response in self._restore_records(records)]
        if len({response.run.incarnation for response in responses}) > 1:
            # The run was lost again in between, together with the first chunks.
            return
        self._journal.record_restore(self._caller.incarnation, self._caller.seen_version, through)
        self._outbox.settle_through(through)
        self._lost = False
        log.warning("restored %d rounds on the bandit server", sum(response.restored for response in responses))

    def _restore_records(self, records: list[pb.JournalRecord]) -> list[pb.RestoreRunResponse]:
        """Restore some rounds. A round that the server refuses is left out, and does not block the others."""
        request = pb.RestoreRunRequest(caller=self._caller, spec=self._spec, info=self._info, records=records)
        try:
            response = self._rpc.restore_run(request)
        except BanditRefused as error:
            if error.reason not in REJECTED_REASONS or not records:
                raise
            if len(records) > 1:
                half = len(records) // 2
                return self._restore_records(records[:half]) + self._restore_records(records[half:])
            # If this is refused too, the reason is not the round.
            responses = self._restore_records([])
            self._record_refusal(records[0].pull.round, error)
            return responses
        self._note_version(response.run.incarnation, response.run.version)
        return [response]

    def _note_version(self, incarnation: str, version: int) -> None:
        same = incarnation == self._caller.incarnation
        self._caller.seen_version = max(version, self._caller.seen_version) if same else version
        self._caller.incarnation = incarnation


def _chunks(records: list[pb.JournalRecord]) -> Iterator[list[pb.JournalRecord]]:
    """Yield the records in order, as many at a time as one call may carry; one empty chunk if there are none."""
    chunk: list[pb.JournalRecord] = []
    size = 0
    for record in records:
        length = record.ByteSize()
        if chunk and (len(chunk) == MAX_RECORDS_PER_CALL or size + length > MAX_BYTES_PER_CALL):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += length
    yield chunk
