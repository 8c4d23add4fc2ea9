"""Whatever a store loses, and whatever others have written in its place since: it is found out, and the workers'
journals give everything back, nothing twice (DESIGN.md §5, "Loss is detected, never served")."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from bandit_server.replica import runs
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
    """No answer came."""


@dataclass
class Worker:
    """A worker as its client is (worker/client/sender.py): it journals, tells in order, and gives back what was lost.

    Attributes:
        journal: Its rounds; a record with a measurement is a report.
        told: Reports that were acknowledged.
        unsure: Whether the server still has its last report is to be found out.
    """

    caller: pb.Caller
    call: Callable[[str, Any, Fate], Any]
    journal: dict[int, pb.JournalRecord] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    unsure: bool = True

    def play(self, fate: Fate, loss: int) -> None:
        """One round: of its own choice where the server does not choose."""
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

    def beat(self) -> None:
        """The sign of life of a worker that has nothing else to say."""
        try:
            self.call("Heartbeat", pb.HeartbeatRequest(caller=self.caller), "arrives")
        except Refused as refused:
            if refused.status not in LOST:
                raise
            self._give_back()

    def deliver(self, fate: Fate) -> bool:
        """Whether the server has everything now."""
        try:
            if self.unsure and self.told:
                last = max(self.told)
                if not self._report(last, "arrives").duplicate:
                    self._give_back()
            self.unsure = False
            for round in sorted(self.journal.keys() - self.told):
                self._report(round, fate)
                self.told.add(round)
        except Away:
            self.unsure = True
        except Refused as refused:
            if refused.status == "ALREADY_EXISTS":
                raise AssertionError("the server has other numbers than the worker") from refused
            if refused.status not in LOST:
                raise
            self._give_back()
        return self.journal.keys() <= self.told

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

    def _give_back(self) -> None:
        records = [record for _, record in sorted(self.journal.items())]
        try:
            self.call("RestoreRun", pb.RestoreRunRequest(caller=self.caller, spec=spec(), records=records), "arrives")
            self.told = set(self.journal)
        except Away:
            self.unsure = True


class Losses(RuleBasedStateMachine):
    """Three workers at two replicas of a run whose store loses its end, or everything."""

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
                    self.keep(rng.randrange(2))
                    self.restart(rng.randrange(2))
                case _:
                    self.play(rng.randrange(3), rng.randrange(2), rng.choice(FATES), rng.randint(1, 90), 1)

    @rule(events=st.integers(1, 30))
    def lose(self, events: int) -> None:
        """The store loses its last events; all, if it has no more than these."""
        stream, head = keys.events(self.run), keys.head(self.run)
        found: Any = self.client.xrange(stream)
        kept = [(name, fields) for name, fields in found[: max(0, len(found) - events)]]
        incarnation = ""
        for _, fields in kept:
            event = pb.Event.FromString(fields[b"e"])
            incarnation = event.run_created.incarnation or event.run_restored.incarnation or incarnation
        pipe = self.client.pipeline()
        pipe.delete(stream, head)
        for name, fields in kept:
            pipe.xadd(stream, fields, id=name)
        if kept:
            pipe.set(head, incarnation)
        pipe.execute()

    @rule(replica=st.sampled_from([0, 1]))
    def keep(self, replica: int) -> None:
        """A snapshot, which what the store loses later does not touch."""
        self.runner.run(self.replicas[replica].keep(self.run))

    @rule(replica=st.sampled_from([0, 1]))
    def restart(self, replica: int) -> None:
        """A server is killed. Whoever was connected to it has noticed."""
        self.replicas[replica].restart()
        for worker in self.workers:
            worker.unsure = True

    def teardown(self) -> None:
        try:
            if any(worker.client.journal for worker in self.workers):
                self.settle()
        finally:
            self.client.close()
            for replica in self.replicas:
                self.runner.run(replica.store.close())

    def settle(self) -> None:
        """All comes to rest: then every report is in the history, once, as its worker made it."""
        for replica in (0, 1, 0, 1, 0, 1):
            self.at = replica
            for worker in self.workers:
                worker.deliver("arrives")
                worker.beat()
        events = self.events()
        assert not any(worker.client.journal.keys() - worker.told for worker in self.workers)
        stored = [event.reward_reported for event in events if event.HasField("reward_reported")]
        found = {(r.pull.worker, r.pull.round): (r.pull.arm, r.measurement) for r in stored}
        assert len(found) == len(stored), "a round was counted twice"
        assert found == {
            (worker.caller.worker, round): (record.pull.arm, record.measurement)
            for worker in self.workers
            for round, record in worker.client.journal.items()
        }
        numbers = [report.pull.number for report in stored]
        assert len(set(numbers)) == len(numbers), "two pulls have one number"
        fold = RunState(self.run)
        for event in events:
            fold.apply(event)
        for replica in self.replicas:
            assert summary(self.runner.run(replica.state(self.run))) == summary(fold)

    def call(self, method: str, request: Any, fate: Fate) -> Any:
        """A call to the replica that is `at` hand."""
        try:
            answer = self.runner.run(self.replicas[self.at].call(method, request, fate))
        except Refused as refused:
            if refused.status == "UNAVAILABLE":
                raise Away from None
            raise
        if fate == "answer lost":
            raise Away
        told = answer.run if hasattr(answer, "run") else answer
        request_caller: pb.Caller = next(w.caller for w in self.workers if w.caller.worker == request.caller.worker)
        request_caller.incarnation, request_caller.seen_version = told.incarnation, told.version
        return answer

    def events(self) -> list[pb.Event]:
        found: Any = self.client.xrange(keys.events(self.run))
        return [pb.Event.FromString(fields[b"e"]) for _, fields in found]


def test_whatever_the_store_loses_is_given_back_once(valkey: Valkey, monkeypatch: pytest.MonkeyPatch) -> None:
    Losses.runner, Losses.url = valkey.runner, valkey.url
    # However busy the machine is: whether a call is in time is no part of this.
    monkeypatch.setattr(runs, "DEADLINE", 60.0)
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
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
