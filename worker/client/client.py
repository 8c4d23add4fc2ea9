"""A worker's place in one run. Used on rank 0 only.

    client = BanditClient("host:50051", run=…, worker=…, spec=…, journal=Journal(path))
    joined = client.start(info)
    while (pull := client.select(round)) is not None:
        reported = client.report(round, pull.arm, pull.chosen_by, measurement, next_round=round + 1)
    client.close()

Training does not depend on the server once it has started: see courier.py and
handover.py for what happens while it is away.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.credentials import Access
from worker.client.journal import Journal, Pull
from worker.client.outbox import Handover, Report
from worker.client.rpc import Wire
from worker.client.sender import Courier
from worker.errors import BanditRefused, BanditUnreachable, Fenced, JournalError, RunLost

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Joined:
    """What a start gave.

    Attributes:
        run: The run's name.
        incarnation: Its incarnation; empty if the worker starts offline.
        created: Whether this start created it.
        next_round: The first round of this worker without a report.
    """

    run: str
    incarnation: str
    created: bool
    next_round: int


@dataclass(frozen=True)
class Reported:
    """What a report gave.

    Attributes:
        reward: The reward as the server computed it; None for the tail and when not delivered yet.
        duplicate: The server had a report of this round before; that one stands.
        delivered: The server has stored it. Otherwise it is in the journal, and sent when the server is back.
    """

    reward: float | None
    duplicate: bool
    delivered: bool


class BanditClient:
    """What the trainer's thread calls.

    Args:
        address: Where the server listens, ``host:port``.
        run: The run's name; it is created if it does not exist.
        worker: This worker's id.
        spec: What the run is; the server refuses another one under the same name. With 0 steps in a round their
            length is open: `settle` closes it.
        journal: This worker's journal.
        info: What the worker tells of itself; `start` may give it instead.
        patience: Seconds to wait, once per outage, for a server that is away.
        access: What the server is shown, and whom the client trusts; nothing, and anybody, by default.
        allow_offline: Start although the server cannot be reached.
        deadline: Seconds a single call may take.

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
        access: Access | None = None,
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
        self._access = access or Access()
        self._allow_offline = allow_offline
        self._deadline = deadline
        self._wire: Wire | None = None
        self._handover: Handover | None = None
        self._courier: Courier | None = None
        if spec.steps_per_round:
            journal.begin(run, worker, spec)

    def wait_ready(self, timeout: float | None = None) -> None:
        """Wait until a server answers at the address, at most `timeout` seconds (by default: the patience), and see
        whether this worker may join the run. Joins nothing.

        The connection is closed again: until `start`, the process has none, and may fork.

        Raises:
            BanditUnreachable: None does, and the worker may not start offline.
            BanditRefused: The run has another spec, has ended before this worker's first round, or was deleted, or the
                token is wrong.
        """
        seconds = self._patience if timeout is None else timeout
        wire = Wire(self._address, self._access, self._deadline)
        try:
            if wire.is_ready(seconds):
                self._check_run(wire)
            elif not self._allow_offline:
                raise BanditUnreachable(self._cannot_start("nobody listens there"))
            else:
                # It is spent: `start` will try, but not wait again.
                self._patience_at_start = 0.0
        finally:
            wire.close()

    @property
    def spec(self) -> pb.RunSpec:
        """The run's spec as far as it is known: a length left open is the run's once `wait_ready` has seen one."""
        return self._spec

    def settle(self, spec: pb.RunSpec) -> int:
        """Close an open spec, before `start`. Returns the steps of the run's rounds: where they are not the spec's,
        nothing is settled, and the spec that has them is to be brought instead.

        Of several workers that choose at the same time, the first to come here decides.

        Raises:
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        wire = Wire(self._address, self._access, self._deadline)
        try:
            wire.create_run(pb.CreateRunRequest(caller=pb.Caller(run=self.run), spec=spec))
        except BanditRefused as error:
            if error.reason != "spec_mismatch":
                raise
            theirs = wire.get_run(pb.GetRunRequest(run=self.run)).run.spec.steps_per_round
            if theirs == spec.steps_per_round:
                raise
            return theirs
        except BanditUnreachable:
            # For `start` to wait for.
            pass
        finally:
            wire.close()
        self._spec = spec
        self._journal.begin(self.run, self.worker, spec)
        return spec.steps_per_round

    def start(self, info: pb.WorkerInfo | None = None) -> Joined:
        """Join the run, creating it if need be, and start the background thread.

        Older processes of this worker are fenced. A run that the server has lost is given back from the journal.

        Raises:
            BanditUnreachable: The server is away, and the worker may not start offline.
            BanditRefused: The run has another spec or was deleted, or the token is wrong.
        """
        assert self._courier is None, "a client is started once"
        unsent = [Report(round, pull.arm, pull.chosen_by, m) for round, pull, m in self._journal.unsent()]
        self._handover = Handover(self._patience, unsent)
        self._wire = Wire(self._address, self._access, self._deadline)
        self._courier = Courier(
            self._wire,
            self._handover,
            self._journal,
            run=self.run,
            worker=self.worker,
            spec=self._spec,
            info=info or self._info,
        )
        try:
            response = self._courier.start(self._patience_at_start, offline=self._allow_offline)
        except BanditUnreachable as error:
            raise BanditUnreachable(self._cannot_start(str(error))) from None
        next_round = self._journal.next_round
        if response is None:
            return Joined(self.run, "", created=False, next_round=next_round)
        return Joined(self.run, response.run.incarnation, response.created, max(next_round, response.next_round))

    def select(self, round: int) -> Pull | None:
        """The arm to train in this round; None when the run is finished. Journalled.

        A round that this worker has begun before, in this process or an earlier one, keeps its arm.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        handover = self._started()
        known = self._journal.pull_of(round)
        if known is not None:
            return known
        question = handover.ask(round)
        self._started()
        if question.answered:
            return question.pull
        pull = Pull(self._journal.fallback_arm, None, pb.CHOSEN_BY_FALLBACK)
        self._journal.pulled(round, pull, [])
        return pull

    def report(
        self,
        round: int,
        arm: str,
        chosen_by: pb.ChosenBy.ValueType,
        measurement: pb.Measurement,
        next_round: int | None = None,
    ) -> Reported:
        """What came of a round. Journalled, then sent; the first report of a round stands.

        Args:
            round: Which.
            arm: What was trained.
            chosen_by: Who chose it.
            measurement: What was measured.
            next_round: A round that `select` will be called for next: the same call to the server asks for its arm.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        handover = self._started()
        self._journal.reported(round, arm, chosen_by, measurement)
        if next_round is not None and self._journal.pull_of(next_round) is not None:
            # `select` has nothing to ask.
            next_round = None
        report = Report(round, arm, chosen_by, measurement, next_round)
        handover.report(report)
        self._started()
        if report.reply is None:
            return Reported(None, duplicate=False, delivered=False)
        stored = report.reply.report
        reward = stored.reward if stored.HasField("reward") else None
        return Reported(reward, report.reply.duplicate, delivered=True)

    def heartbeat(self, round: int, step: int, steps_per_second: float) -> None:
        """Remember what the background thread tells the server every few seconds. Never blocks."""
        assert self._courier is not None, "a client is started before it is used"
        self._courier.pulse(round, step, steps_per_second)

    def finish(self) -> None:
        """End the run for all its workers; sent after every report, also when the server is away now.

        Raises:
            Fenced: A newer process of this worker has started.
            JournalError: The journal cannot be written.
        """
        self._started().finish()
        self._started()

    def flush(self, timeout: float | None = None) -> int:
        """Wait, at most `timeout` seconds, until everything is sent; returns the number of unsent reports. By default
        as long as the patience, and not at all for a server that has been away for longer than that."""
        assert self._handover is not None, "a client is started before it is used"
        return self._handover.flush(timeout)

    def close(self) -> None:
        """End the background thread and the connection, and close the journal. Unsent reports stay in it."""
        if self._courier is not None and self._wire is not None:
            self._courier.stop(hang_up=self._wire.close)
        untold = len(self._journal.unsent())
        if untold and self._handover is not None and not isinstance(self._handover.end, Fenced):
            log.warning(
                "%d reports are not told to the bandit server, and kept in %s: "
                "`python -m worker.deliver %s --bandit-addr %s` tells them",
                untold, self._journal.path, self._journal.path.parent, self._address,
            )  # fmt: skip
        self._journal.close()

    def _check_run(self, wire: Wire) -> None:
        # A run that is not there is no fault, and what passes is for `start` to wait for.
        with contextlib.suppress(BanditUnreachable, RunLost):
            theirs = wire.get_run(pb.GetRunRequest(run=self.run)).run.spec
            if not self._spec.steps_per_round:
                # How many rounds there are may follow from their length; `settle` compares them.
                ours = pb.RunSpec()
                ours.CopyFrom(self._spec)
                ours.steps_per_round, ours.rounds = theirs.steps_per_round, theirs.rounds
                self._spec = ours
            # It is there: naming no worker, this compares the spec and changes nothing.
            request = pb.CreateRunRequest(caller=pb.Caller(run=self.run), spec=self._spec)
            if wire.create_run(request).run.state == pb.RUN_STATE_FINISHED and self._journal.next_round == 0:
                raise BanditRefused(f"run {self.run} has ended; choose another --run", "run_finished")

    def _started(self) -> Handover:
        assert self._handover is not None, "a client is started before it is used"
        if isinstance(self._handover.end, Fenced | JournalError):
            raise self._handover.end
        return self._handover

    def _cannot_start(self, reason: str) -> str:
        return (
            f"no bandit server at {self._address} ({reason}; waited {self._patience:g} s): start one with "
            "`optima serve`, or train without it with --allow-offline"
        )
