"""A replica's state of a run is the fold of what the store has, also after the store has lost history."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from bandit_server.replica.runs import Runs
from bandit_server.rpc.watch import watch
from bandit_server.run.state import RunState
from bandit_server.run.summary import summary
from bandit_server.store import keys
from bandit_server.store.base import AppendResult
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.conftest import Valkey
from tests.bandit_server.local_replica import FickleStore, Refused, Replica
from tests.calls import measured, spec

RUNS = itertools.count()


class Site:
    """Replicas on one store, and a run that workers play through them."""

    def __init__(self, valkey: Valkey) -> None:
        self.run = f"runs-{next(RUNS)}"
        self.runner = valkey.runner
        self.client = redis.Redis.from_url(valkey.url)
        self.replicas = [Replica(FickleStore(valkey.url, deadline=60)) for _ in range(2)]
        self.callers: dict[str, pb.Caller] = {}

    def call(self, replica: int, method: str, request: Any) -> Any:
        answer = self.runner.run(self.replicas[replica].call(method, request))
        known = answer.run if hasattr(answer, "run") else answer
        caller = self.callers[request.caller.worker]
        caller.incarnation, caller.seen_version = known.incarnation, known.version
        return answer

    def join(self, replica: int, worker: str) -> None:
        self.callers[worker] = pb.Caller(run=self.run, worker=worker, process="p")
        self.call(replica, "CreateRun", pb.CreateRunRequest(caller=self.callers[worker], spec=spec()))

    def play(self, replica: int, worker: str, played: range) -> list[pb.RewardReported]:
        reports = []
        for round in played:
            caller = self.callers[worker]
            arm = self.call(replica, "SelectArm", pb.SelectArmRequest(caller=caller, round=round)).pull.arm
            request = pb.ReportRewardRequest(
                caller=caller, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY,
                measurement=measured(after=0.9 - round / 1000),
            )  # fmt: skip
            reports.append(self.call(replica, "ReportReward", request).report)
        return reports

    def restore(self, replica: int, worker: str, reports: list[pb.RewardReported]) -> pb.RestoreRunResponse:
        records = [pb.JournalRecord(pull=r.pull, numbered=True, measurement=r.measurement) for r in reports]
        request = pb.RestoreRunRequest(caller=self.callers[worker], spec=spec(), records=records)
        answer: pb.RestoreRunResponse = self.call(replica, "RestoreRun", request)
        return answer

    def events(self) -> list[pb.Event]:
        entries: Any = self.client.xrange(keys.events(self.run))
        return [pb.Event.FromString(fields[b"e"]) for _, fields in entries]

    def roll_back(self, version: int) -> None:
        """Remove everything after a version from the store."""
        entries: Any = self.client.xrange(keys.events(self.run), count=version)
        pipe = self.client.pipeline()
        pipe.delete(keys.events(self.run))
        for name, fields in entries:
            pipe.xadd(keys.events(self.run), fields, id=name)
        pipe.execute()

    def assert_all_serve_the_fold(self) -> None:
        fold = RunState(self.run)
        for event in self.events():
            fold.apply(event)
        for replica in self.replicas:
            assert summary(self.runner.run(replica.state(self.run))) == summary(fold)

    def close(self) -> None:
        self.client.close()
        for replica in self.replicas:
            self.runner.run(replica.store.close())


@pytest.fixture
def site(valkey: Valkey) -> Iterator[Site]:
    made = Site(valkey)
    yield made
    made.close()


def reported(events: list[pb.Event]) -> list[tuple[str, int]]:
    return [
        (event.reward_reported.pull.worker, event.reward_reported.pull.round)
        for event in events
        if event.HasField("reward_reported")
    ]


@pytest.mark.parametrize("filled_up", [0, 3, 4, 9], ids=["not", "in part", "to the same version", "and beyond"])
def test_a_loss_that_another_replica_has_filled_up_is_found_out_and_given_back(site: Site, filled_up: int) -> None:
    """The second replica never saw what was lost, and no call failed: that the first one saw it must be enough."""
    site.join(0, "a")
    reports = site.play(0, "a", range(10))
    site.roll_back(13)
    site.join(1, "b")
    others = site.play(1, "b", range(filled_up))
    assert len(site.events()) == 14 + 2 * filled_up, "the second replica has noticed nothing"
    with pytest.raises(Refused) as refused:
        site.play(0, "a", range(10, 11))
    assert refused.value.status == "DATA_LOSS"
    site.assert_all_serve_the_fold()
    with pytest.raises(Refused) as refused:
        site.play(1, "b", range(filled_up, filled_up + 1))
    assert refused.value.status == "DATA_LOSS"
    assert site.restore(0, "a", reports).restored == 5
    site.restore(1, "b", others)
    reports += site.play(1, "a", range(10, 12))
    others += site.play(0, "b", range(filled_up, filled_up + 2))
    site.assert_all_serve_the_fold()
    events = site.events()
    assert sorted(reported(events)) == sorted(
        [("a", round) for round in range(12)] + [("b", r) for r in range(len(others))]
    )
    numbers = [event.arm_pulled.pull.number for event in events if event.HasField("arm_pulled")]
    assert len(numbers) == len(set(numbers))


def test_a_long_history_with_a_loss_in_it_is_read_in_pages(site: Site) -> None:
    """By a replica that starts, and by a watcher; the incarnation changes in the middle of the history."""
    site.join(0, "a")
    reports = site.play(0, "a", range(10))
    site.client.delete(keys.events(site.run), keys.head(site.run))
    site.restore(0, "a", reports)
    site.roll_back(20)
    with pytest.raises(Refused):
        site.play(0, "a", range(10, 11))
    site.restore(0, "a", reports)
    site.play(0, "a", range(10, 20))
    events = site.events()
    changes = [at for at, event in enumerate(events) if event.HasField("run_restored")]
    assert 10 < changes[-1] < len(events) - 10
    site.replicas[1].page_size = 10
    site.replicas[1].restart()
    site.assert_all_serve_the_fold()

    async def watched() -> list[pb.Event]:
        seen: list[pb.Event] = []
        async for batch in watch(Runs(site.replicas[1].store, page_size=10), site.run, 0, ""):
            assert batch.from_version == len(seen)
            seen += batch.events
            if batch.live:
                break
        return seen

    assert site.runner.run(asyncio.wait_for(watched(), 60)) == events


class SlowStore(FickleStore):
    """A store that waits `pause` seconds before every append."""

    pause = 0.0

    async def append(self, *args: Any, **options: Any) -> AppendResult:
        await asyncio.sleep(self.pause)
        return await super().append(*args, **options)


def test_a_report_that_selects_is_in_time_as_a_whole_and_may_be_repeated(site: Site, valkey: Valkey) -> None:
    store = SlowStore(valkey.url, deadline=60)
    site.replicas.insert(0, Replica(store, deadline=2.0))
    site.join(0, "w")
    # A pull that the worker chose is reported in an append of its own.
    request = pb.ReportRewardRequest(caller=site.callers["w"], round=0, arm="text", chosen_by=pb.CHOSEN_BY_FALLBACK,
                                     measurement=measured(after=0.9), select_round=1)  # fmt: skip
    # One append is in time, and two are not.
    store.pause = 1.2
    with pytest.raises(Refused, match=r"UNAVAILABLE: the store was too slow \(more than 2 s\); try again"):
        site.call(0, "ReportReward", request)
    assert [event.WhichOneof("kind") for event in site.events()[2:]] == ["reward_reported"]
    store.pause = 0.0
    answer = site.call(0, "ReportReward", request)
    assert (answer.duplicate, answer.selected.duplicate, answer.selected.pull.round) == (True, False, 1)
