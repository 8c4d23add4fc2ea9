"""Losses of the store are detected, and the workers' journals restore everything, nothing twice.

Whatever the store has lost, and whatever others have appended in its place since.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from bandit_server.run.state import RunState
from bandit_server.run.summary import summary
from bandit_server.store import keys
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.conftest import Valkey
from tests.bandit_server.local_replica import Fate, FickleStore, Refused, Replica
from tests.calls import ARMS, measured, spec

RUNS = itertools.count()
FATES: list[Fate] = ["arrives", "arrives", "arrives", "answer lost", "store unanswered", "store unheard"]
LOST = ("DATA_LOSS", "NOT_FOUND")


class Away(Exception):
    """No answer has arrived."""


@dataclass
class Worker:
    """A worker as its client does it: it keeps a journal, reports in order, and restores what was lost.

    Attributes:
        journal: Its rounds; a record with a measurement is a report.
        acknowledged: Rounds whose reports were acknowledged.
        unsure: Whether it must check that the server still has its last report.
    """

    caller: pb.Caller
    call: Callable[[str, Any, Fate], Any]
    journal: dict[int, pb.JournalRecord] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    unsure: bool = True

    def play(self, fate: Fate, loss: int) -> None:
        """Play a round, of its own choice where the server does not choose."""
        round = len(self.journal)
        record = pb.JournalRecord(pull=pb.Pull(round=round, arm=ARMS[loss % 3], chosen_by=pb.CHOSEN_BY_FALLBACK))
        if self.deliver(fate):
            try:
                answer = self.call("SelectArm", pb.SelectArmRequest(caller=self.caller, round=round), fate)
                record = pb.JournalRecord(pull=answer.pull, numbered=True)
            except (Away, Refused):
                self.unsure = True
        record.measurement.CopyFrom(measured(after=1 - loss / 100))
        self.journal[round] = record
        self.deliver("arrives")

    def send_heartbeat(self) -> None:
        """Send a heartbeat."""
        try:
            self.call("Heartbeat", pb.HeartbeatRequest(caller=self.caller), "arrives")
        except Refused as refused:
            if refused.status not in LOST:
                raise
            self._restore()

    def deliver(self, fate: Fate) -> bool:
        """Report what is due; return whether the server has everything now."""
        try:
            if self.unsure and self.acknowledged:
                last = max(self.acknowledged)
                if not self._report(last, "arrives").duplicate:
                    self._restore()
            self.unsure = False
            for round in sorted(self.journal.keys() - self.acknowledged):
                self._report(round, fate)
                self.acknowledged.add(round)
        except Away:
            self.unsure = True
        except Refused as refused:
            if refused.status == "ALREADY_EXISTS":
                raise AssertionError("the server has other numbers than the worker") from refused
            if refused.status not in LOST:
                raise
            self._restore()
        return self.journal.keys() <= self.acknowledged

    def _report(self, round: int, fate: Fate) -> Any:
        record = self.journal[round]
        request = pb.ReportRewardRequest(
            caller=self.caller,
            round=round,
            arm=record.pull.arm,
            chosen_by=record.pull.chosen_by,
            measurement=record.measurement,
        )
        return self.call("ReportReward", request, fate)

    def _restore(self) -> None:
        records = [record for _, record in sorted(self.journal.items())]
        try:
            self.call("RestoreRun", pb.RestoreRunRequest(caller=self.caller, spec=spec(), records=records), "arrives")
            self.acknowledged = set(self.journal)
        except Away:
            self.unsure = True


class Losses(RuleBasedStateMachine):
    """Three workers at two replicas, whose store loses the end of the run, or all of it."""

    runner: asyncio.Runner
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.run = f"losses-{next(RUNS)}"
        self.client = redis.Redis.from_url(self.url)
        self.replicas = [Replica(FickleStore(self.url, deadline=60)) for _ in range(2)]
        self.at = 0
        self.workers = [
            Worker(pb.Caller(run=self.run, worker=name, process=f"p-{name}"), self.call) for name in ("a", "b", "c")
        ]

    @initialize()
    def begin(self) -> None:
        for worker in self.workers:
            self.call("CreateRun", pb.CreateRunRequest(caller=worker.caller, spec=spec()), "arrives")

    @rule(worker=st.sampled_from([0, 1, 2]), replica=st.sampled_from([0, 1]), fate=st.sampled_from(FATES),
          loss=st.integers(1, 90), rounds=st.integers(1, 4))  # fmt: skip
    def play(self, worker: int, replica: int, fate: Fate, loss: int, rounds: int) -> None:
        self.at = replica
        for _ in range(rounds):
            self.workers[worker].play(fate, loss)

    @rule(seed=st.integers(0, 2**32 - 1))
    def turmoil(self, seed: int) -> None:
        rng = random.Random(seed)
        for _ in range(8):
            match rng.randrange(8):
                case 0:
                    self.lose(rng.randint(1, 20))
                case 1:
                    self.save_snapshot(rng.randrange(2))
                    self.restart(rng.randrange(2))
                case _:
                    self.play(rng.randrange(3), rng.randrange(2), rng.choice(FATES), rng.randint(1, 90), 1)

    @rule(events=st.integers(1, 30))
    def lose(self, events: int) -> None:
        """Remove the last events from the store, or all if there are fewer."""
        stream, head = keys.events(self.run), keys.head(self.run)
        entries: Any = self.client.xrange(stream)
        left = entries[: max(0, len(entries) - events)]
        incarnation = ""
        for _, fields in left:
            event = pb.Event.FromString(fields[b"e"])
            incarnation = event.run_created.incarnation or event.run_restored.incarnation or incarnation
        pipe = self.client.pipeline()
        pipe.delete(stream, head)
        for name, fields in left:
            pipe.xadd(stream, fields, id=name)
        if left:
            pipe.set(head, incarnation)
        pipe.execute()

    @rule(replica=st.sampled_from([0, 1]))
    def save_snapshot(self, replica: int) -> None:
        """Take a snapshot, which the store does not lose."""
        self.runner.run(self.replicas[replica].save_snapshot(self.run))

    @rule(replica=st.sampled_from([0, 1]))
    def restart(self, replica: int) -> None:
        """Restart a server; its clients notice that."""
        self.replicas[replica].restart()
        for worker in self.workers:
            worker.unsure = True

    def teardown(self) -> None:
        try:
            if any(worker.journal for worker in self.workers):
                self.settle()
        finally:
            self.client.close()
            for replica in self.replicas:
                self.runner.run(replica.store.close())

    def settle(self) -> None:
        """Deliver everything: then every report is in the history, once, as its worker made it."""
        for self.at in (0, 1, 0, 1, 0, 1):
            for worker in self.workers:
                worker.deliver("arrives")
                worker.send_heartbeat()
        events = self.events()
        assert not any(worker.journal.keys() - worker.acknowledged for worker in self.workers)
        stored = [event.reward_reported for event in events if event.HasField("reward_reported")]
        counted = {(r.pull.worker, r.pull.round): (r.pull.arm, r.measurement) for r in stored}
        assert len(counted) == len(stored), "a round was counted twice"
        assert counted == {
            (worker.caller.worker, round): (record.pull.arm, record.measurement)
            for worker in self.workers
            for round, record in worker.journal.items()
        }
        numbers = [report.pull.number for report in stored]
        assert len(set(numbers)) == len(numbers), "two pulls have one number"
        fold = RunState(self.run)
        for event in events:
            fold.apply(event)
        for replica in self.replicas:
            assert summary(self.runner.run(replica.state(self.run))) == summary(fold)

    def call(self, method: str, request: Any, fate: Fate) -> Any:
        """Call the replica `at`."""
        try:
            answer = self.runner.run(self.replicas[self.at].call(method, request, fate))
        except Refused as refused:
            if refused.status == "UNAVAILABLE":
                raise Away from None
            raise
        if fate == "answer lost":
            raise Away
        known = answer.run if hasattr(answer, "run") else answer
        request_caller: pb.Caller = next(w.caller for w in self.workers if w.caller.worker == request.caller.worker)
        request_caller.incarnation, request_caller.seen_version = known.incarnation, known.version
        return answer

    def events(self) -> list[pb.Event]:
        entries: Any = self.client.xrange(keys.events(self.run))
        return [pb.Event.FromString(fields[b"e"]) for _, fields in entries]


def test_whatever_the_store_loses_is_given_back_once(valkey: Valkey) -> None:
    Losses.runner, Losses.url = valkey.runner, valkey.url
    run_state_machine_as_test(
        Losses,
        settings=settings(
            max_examples=40,
            stateful_step_count=20,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
