"""The bandit client: joins a run, asks for arms, and reports rewards. Used on rank 0 only.

    client = BanditClient("host:50051", run=…, worker=…, spec=…, journal=Journal(path))
    joined = client.start(info)
    while (pull := client.select(round)) is not None:
        reported = client.report(round, pull.arm, pull.chosen_by, measurement, next_round=round + 1)
    client.close()

Once it has started, training does not depend on the server: sender.py and outbox.py describe what happens during an
outage. For a worker without a model, see testing.py.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.credentials import Credentials
from worker.client.journal import Journal, Pull
from worker.client.outbox import Outbox, Report
from worker.client.rpc import BanditRpc
from worker.client.sender import Sender
from worker.errors import BanditRefused, BanditUnreachable, Fenced, JournalError, RunLost

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Joined:
    """The result of `BanditClient.start`.

    Attributes:
        run: The run's name.
        incarnation: Its incarnation; empty if the worker starts offline.
        created: Whether this call created the run.
        next_round: This worker's first round without a report.
    """

    run: str
    incarnation: str
    created: bool
    next_round: int


@dataclass(frozen=True)
class Reported:
    """The result of `BanditClient.report`.

    Attributes:
        reward: The reward that the server computed; None in the tail, and while the report is not delivered.
        duplicate: Whether the server already had a report of this round. The earlier report stands.
        delivered: Whether the server has stored the report. If not, it is in the journal and is sent later.
    """

    reward: float | None
    duplicate: bool
    delivered: bool


class BanditClient:
    """The calls of the training thread. None of them blocks for longer than the patience.

    Args:
        address: The server's address, ``host:port``.
        run: The run's name. The run is created if it does not exist.
        worker: This worker's id.
        spec: The run's spec; the server refuses a different spec under the same name. A spec with 0
            ``steps_per_round`` leaves the length of a round open, and must be completed by `settle`.
        journal: This worker's journal.
        info: The worker's description of itself; `start` can replace it.
        patience: Seconds to wait for the server in one outage, in total.
        credentials: Token and certificates. By default there is no token, and the connection is not encrypted.
        allow_offline: Start even if the server cannot be reached.
        deadline: Seconds that a single call may take.

    Raises:
        JournalError: The journal belongs to another run, worker or spec.
    """

    def __init__(
        self,
        address: str,
        *,
        run: str,
        worker: str,
        spec: pb.RunSpec,
        journal: Journal,
        info: pb.WorkerInfo | None = None,
        patience: float = 10.0,
        credentials: Credentials | None = None,
        allow_offline: bool = False,
        deadline: float = 5.0,
    ) -> None:
        self.run = run
        self.worker = worker
        self._address = address
        self._spec = spec
        self._journal = journal
        self._info = info or pb.WorkerInfo()
        self._patience = patience
        self._patience_at_start = patience
        self._credentials = credentials or Credentials()
        self._allow_offline = allow_offline
        self._deadline = deadline
        self._rpc: BanditRpc | None = None
        self._outbox: Outbox | None = None
        self._sender: Sender | None = None
        if spec.steps_per_round:
            journal.begin(run, worker, spec)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until a server answers, and check that this worker may join the run. Does not join.

        The connection is closed again: until `start` the process has no connection, and may fork.

        Args:
            timeout: Seconds to wait; by default the patience.

        Raises:
            BanditUnreachable: No server answers, and the worker may not start offline.
            BanditRefused: The run has another spec, has ended before this worker's first round, or was deleted; or the
                token is wrong.
        """
        seconds = self._patience if timeout is None else timeout
        rpc = BanditRpc(self._address, self._credentials, self._deadline)
        try:
            if rpc.is_ready(seconds):
                self._check_run(rpc)
            elif not self._allow_offline:
                raise BanditUnreachable(self._unreachable_at_start("nothing listens there"))
            else:
                # The patience is spent: `start` tries once, without waiting again.
                self._patience_at_start = 0.0
        finally:
            rpc.close()

    @property
    def spec(self) -> pb.RunSpec:
        """The run's spec. If the length of a round was left open, it is the run's own once `wait_ready` found one."""
        return self._spec

    def settle(self, spec: pb.RunSpec) -> int:
        """Complete an open spec. To be called before `start`.

        If several workers call this at the same time, the first one decides for all.

        Args:
            spec: The spec with ``steps_per_round`` filled in.

        Returns:
            The run's steps per round. If they differ from the spec's, nothing is settled: call again with a spec that
            has this length.

        Raises:
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        rpc = BanditRpc(self._address, self._credentials, self._deadline)
        try:
            rpc.create_run(pb.CreateRunRequest(caller=pb.Caller(run=self.run), spec=spec))
        except BanditRefused as error:
            if error.reason != "spec_mismatch":
                raise
            steps_per_round = rpc.get_run(pb.GetRunRequest(run=self.run)).run.spec.steps_per_round
            if steps_per_round == spec.steps_per_round:
                raise
            return steps_per_round
        except BanditUnreachable:
            # `start` waits for the server.
            pass
        finally:
            rpc.close()
        self._spec = spec
        self._journal.begin(self.run, self.worker, spec)
        return spec.steps_per_round

    def start(self, info: pb.WorkerInfo | None = None) -> Joined:
        """Join the run, creating it if it does not exist, and start the background thread.

        Older processes of this worker are fenced. A run that the server has lost is restored from the journal.

        Args:
            info: The worker's description of itself; by default the one passed to the constructor.

        Raises:
            BanditUnreachable: No server answers, and the worker may not start offline.
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        assert self._sender is None, "a client is started once"
        unsent = [Report(round, pull.arm, pull.chosen_by, m) for round, pull, m in self._journal.unsent()]
        self._outbox = Outbox(self._patience, unsent)
        self._rpc = BanditRpc(self._address, self._credentials, self._deadline)
        self._sender = Sender(
            self._rpc,
            self._outbox,
            self._journal,
            run=self.run,
            worker=self.worker,
            spec=self._spec,
            info=info or self._info,
        )
        try:
            response = self._sender.start(self._patience_at_start, offline=self._allow_offline)
        except BanditUnreachable as error:
            raise BanditUnreachable(self._unreachable_at_start(str(error))) from None
        next_round = self._journal.next_round
        if response is None:
            return Joined(self.run, "", created=False, next_round=next_round)
        return Joined(self.run, response.run.incarnation, response.created, max(next_round, response.next_round))

    def select(self, round: int) -> Pull | None:
        """Return the arm to train in a round, or None if the run is finished. The pull is journalled.

        A round that this worker has already begun, in this process or an earlier one, keeps its arm.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        outbox = self._live_outbox()
        known = self._journal.pull_of(round)
        if known is not None:
            return known
        request = outbox.request_arm(round)
        self._live_outbox()
        if request.answered:
            return request.pull
        pull = Pull(self._journal.fallback_arm, None, pb.CHOSEN_BY_FALLBACK)
        self._journal.record_pull(round, pull, [])
        return pull

    def report(
        self,
        round: int,
        arm: str,
        chosen_by: pb.ChosenBy.ValueType,
        measurement: pb.Measurement,
        next_round: int | None = None,
    ) -> Reported:
        """Report the result of a round. It is journalled, then sent; the first report of a round stands.

        Args:
            round: The round's number, from 0.
            arm: The arm that was trained.
            chosen_by: Who chose the arm.
            measurement: The measured losses.
            next_round: The round that `select` is called for next: the same call to the server selects its arm.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        outbox = self._live_outbox()
        self._journal.record_report(round, arm, chosen_by, measurement)
        if next_round is not None and self._journal.pull_of(next_round) is not None:
            # The round already has its arm.
            next_round = None
        report = Report(round, arm, chosen_by, measurement, next_round)
        outbox.add_report(report)
        self._live_outbox()
        if report.reply is None:
            return Reported(None, duplicate=False, delivered=False)
        stored = report.reply.report
        reward = stored.reward if stored.HasField("reward") else None
        return Reported(reward, report.reply.duplicate, delivered=True)

    def heartbeat(self, round: int, step: int, steps_per_second: float) -> None:
        """Set what the next heartbeats of the background thread say. Never blocks."""
        assert self._sender is not None, "a client is started before it is used"
        self._sender.set_heartbeat(round, step, steps_per_second)

    def finish(self) -> None:
        """End the run for all its workers, after every report; during an outage, once the server is back.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        self._live_outbox().finish_run()
        self._live_outbox()

    def flush(self, timeout: float | None = None) -> int:
        """Wait until everything is sent; return the number of unsent reports.

        Args:
            timeout: Seconds to wait; by default the patience, or 0 in an outage whose patience is spent.
        """
        assert self._outbox is not None, "a client is started before it is used"
        return self._outbox.flush(timeout)

    def close(self) -> None:
        """End the background thread, and close the connection and the journal. Unsent reports stay in the journal."""
        if self._sender is not None and self._rpc is not None:
            self._sender.stop(close_connection=self._rpc.close)
        unsent = len(self._journal.unsent())
        if unsent and self._outbox is not None and not isinstance(self._outbox.error, Fenced):
            log.warning(
                "%d reports were not delivered to the bandit server; they are in %s. To deliver them, run "
                "`python -m worker.deliver %s --bandit-addr %s`",
                unsent, self._journal.path, self._journal.path.parent, self._address,
            )  # fmt: skip
        self._journal.close()

    def _check_run(self, rpc: BanditRpc) -> None:
        # A run that does not exist yet is no error, and `start` waits out a transient one.
        with contextlib.suppress(BanditUnreachable, RunLost):
            run_spec = rpc.get_run(pb.GetRunRequest(run=self.run)).run.spec
            if not self._spec.steps_per_round:
                # The number of rounds may follow from their length; `settle` compares both.
                completed = pb.RunSpec()
                completed.CopyFrom(self._spec)
                completed.steps_per_round, completed.rounds = run_spec.steps_per_round, run_spec.rounds
                self._spec = completed
            # The run exists: without a worker in the request, this compares the specs and changes nothing.
            request = pb.CreateRunRequest(caller=pb.Caller(run=self.run), spec=self._spec)
            if rpc.create_run(request).run.state == pb.RUN_STATE_FINISHED and self._journal.next_round == 0:
                raise BanditRefused(f"run {self.run} has ended; choose another --run", "run_finished")

    def _live_outbox(self) -> Outbox:
        """Return the outbox; raise the error that ended this worker, if one did."""
        assert self._outbox is not None, "a client is started before it is used"
        if isinstance(self._outbox.error, Fenced | JournalError):
            raise self._outbox.error
        return self._outbox

    def _unreachable_at_start(self, reason: str) -> str:
        return (
            f"no bandit server at {self._address} ({reason}; waited {self._patience:g} s): start one with "
            "`optima serve`, or train without it with --allow-offline"
        )
