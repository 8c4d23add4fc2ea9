"""The client on a real server; outages are tested in tests/faults/."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import history
from tests.launch import free_port
from tests.server_process import eventually
from worker.client.client import BanditClient, Joined
from worker.client.journal import Journal
from worker.errors import BanditRefused, BanditUnreachable, Fenced

ARMS = ("image", "text", "decoder")


def spec(policy: str = "optima", seed: int = 7) -> pb.RunSpec:
    return pb.RunSpec(
        arms=[pb.Arm(name=name, modules=[name]) for name in ARMS],
        policy=pb.PolicySpec(name=policy),
        seed=seed,
        reward=pb.REWARD_KIND_RELATIVE,
        train=pb.TRAIN_MODE_FORCED,
        steps_per_round=1,
    )


def measured(after: float) -> pb.Measurement:
    return pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=after, steps=1, seconds=0.1)


RUNS = itertools.count()
Connect = Callable[..., BanditClient]


@pytest.fixture
def run() -> str:
    return f"client-{next(RUNS)}"


@pytest.fixture
def connect(address: str, run: str, tmp_path: Path) -> Iterator[Connect]:
    """Make clients of one run, closed at the end; the journal is the worker's unless another one is named."""
    clients = []

    def make(worker: str = "w", journal: str = "", address: str = address, **options: object) -> BanditClient:
        settings = {"run": run, "spec": spec(), "patience": 5.0, **options}
        record = Journal(tmp_path / (journal or f"{worker}.jsonl"))
        client = BanditClient(address, worker=worker, journal=record, **settings)  # type: ignore[arg-type]
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


@pytest.fixture
def stub(address: str) -> Iterator[BanditStub]:
    with grpc.insecure_channel(address) as channel:
        yield BanditStub(channel)


def test_a_round_is_chosen_reported_and_rewarded(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    joined = client.start(pb.WorkerInfo(ranks=2, device="cpu", recipe="digits"))
    assert (joined.run, joined.created, joined.next_round) == (run, True, 0)
    pull = client.select(0)
    assert pull is not None
    assert (pull.arm in ARMS, pull.number, pull.chosen_by) == (True, 0, pb.CHOSEN_BY_POLICY)
    reported = client.report(0, pull.arm, pull.chosen_by, measured(0.75))
    assert reported.reward == pytest.approx(0.25)
    assert (reported.duplicate, reported.delivered) == (False, True)
    summary = stub.GetRun(pb.GetRunRequest(run=run)).run
    assert (summary.incarnation, summary.reports, summary.workers[0].info.recipe) == (joined.incarnation, 1, "digits")


def test_the_next_arm_comes_with_the_report(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    client.start()
    pull = client.select(0)
    for round in range(3):
        assert pull is not None
        client.report(round, pull.arm, pull.chosen_by, measured(0.9), next_round=round + 1)
        pull = client.select(round + 1)
    kinds = [event.WhichOneof("kind") for event in history(stub, run)]
    assert kinds == ["run_created", "worker_started", "arm_pulled", *["reward_reported", "arm_pulled"] * 3]
    assert pull is not None
    client.report(3, pull.arm, pull.chosen_by, measured(0.9), next_round=4)
    stub.FinishRun(pb.FinishRunRequest(run=run))
    last = client.select(4)
    assert last is not None, "it was known before the run's end"
    client.report(4, last.arm, last.chosen_by, measured(0.9), next_round=5)
    assert client.select(5) is None
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 5


def test_a_round_that_was_begun_keeps_its_arm_when_the_one_before_is_reported(connect: Connect, run: str) -> None:
    first = connect()
    first.start()
    pull = first.select(0)
    assert pull is not None
    first.close()
    offline = connect(address=f"127.0.0.1:{free_port()}", patience=0.1, allow_offline=True)
    offline.start()
    begun = offline.select(1)
    assert begun is not None
    assert begun.chosen_by == pb.CHOSEN_BY_FALLBACK
    offline.close()
    back = connect()
    back.start()
    assert back.report(0, pull.arm, pull.chosen_by, measured(0.9), next_round=1).delivered
    assert back.select(1) == begun


def test_a_second_start_joins_and_goes_on(connect: Connect) -> None:
    first = connect()
    first.start()
    for round in range(3):
        pull = first.select(round)
        assert pull is not None
        first.report(round, pull.arm, pull.chosen_by, measured(0.9))
    begun = first.select(3)
    first.close()
    again = connect()
    joined = again.start()
    assert (joined.created, joined.next_round) == (False, 3)
    assert again.select(3) == begun, "the round that was begun keeps its arm"


def test_rounds_run_again_keep_their_arms_and_first_rewards(connect: Connect, run: str, stub: BanditStub) -> None:
    first = connect()
    first.start()
    pulls = [first.select(0), first.select(1)]
    for round, pull in enumerate(pulls):
        assert pull is not None
        first.report(round, pull.arm, pull.chosen_by, measured(0.9))
    first.close()
    resumed = connect()
    resumed.start()
    for round, pull in enumerate(pulls):
        assert resumed.select(round) == pull
        assert pull is not None
        same = resumed.report(round, pull.arm, pull.chosen_by, measured(0.9))
        other = resumed.report(round, pull.arm, pull.chosen_by, measured(0.5))
        for reported in (same, other):
            assert reported.reward == pytest.approx(0.1)
            assert (reported.duplicate, reported.delivered) == (True, True)
    assert resumed.flush(0) == 0
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 2


def test_a_journal_older_than_the_store_is_no_reason_to_count_twice(
    connect: Connect, run: str, stub: BanditStub, tmp_path: Path
) -> None:
    first = connect()
    first.start()
    pulls = []
    for round in range(6):
        pull = first.select(round)
        assert pull is not None
        first.report(round, pull.arm, pull.chosen_by, measured(0.9))
        pulls.append(pull)
    first.close()
    # The journal after two rounds: the first line, the join, and three lines per round.
    lines = (tmp_path / "w.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "w.jsonl").write_text("".join(lines[: 2 + 2 * 3]), encoding="utf-8")
    again = connect()
    assert again.start().next_round == 6
    for round in range(2, 6):
        pull = again.select(round)
        assert pull == pulls[round], "the round keeps its arm and number"
        reported = again.report(round, pull.arm, pull.chosen_by, measured(0.5))
        assert reported.reward == pytest.approx(0.1), "the first report stands"
        assert reported.duplicate
    assert again.select(6) is not None
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 6


def test_rounds_of_the_tail_need_no_choice_and_have_no_reward(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    client.start()
    reported = client.report(0, "joint", pb.CHOSEN_BY_TAIL, measured(0.5))
    assert (reported.reward, reported.delivered) == (None, True)
    summary = stub.GetRun(pb.GetRunRequest(run=run)).run
    assert (summary.tail_rounds, sum(arm.pulls for arm in summary.arms)) == (1, 0)


def test_a_diverged_round_is_reported(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    client.start()
    pull = client.select(0)
    assert pull is not None
    reported = client.report(0, pull.arm, pull.chosen_by, pb.Measurement(outcome=pb.OUTCOME_DIVERGED, steps=1))
    assert (reported.reward, reported.delivered) == (0.0, True)
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.diverged == 1


def test_a_finished_run_has_no_more_rounds(connect: Connect) -> None:
    a, b = connect("a"), connect("b")
    a.start()
    b.start()
    open_pull = b.select(0)
    a.finish()
    assert a.select(0) is None
    assert b.select(1) is None
    assert open_pull is not None
    assert b.report(0, open_pull.arm, open_pull.chosen_by, measured(0.5)).delivered
    late = connect("late")
    late.start()
    assert late.select(0) is None


def test_two_clients_share_one_run(connect: Connect, run: str, stub: BanditStub) -> None:
    clients = [connect("a"), connect("b")]
    joined = [client.start() for client in clients]
    assert [j.created for j in joined] == [True, False]
    numbers = []
    for round in range(4):
        for client in clients:
            pull = client.select(round)
            assert pull is not None
            numbers.append(pull.number)
            assert client.report(round, pull.arm, pull.chosen_by, measured(0.9)).delivered
    assert numbers == list(range(8))
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 8


def test_a_newer_process_of_the_worker_ends_the_older(connect: Connect) -> None:
    older, newer = connect(), connect()
    older.start()
    newer.start()
    with pytest.raises(Fenced):
        older.select(0)
    for call in (
        lambda: older.select(0),
        lambda: older.report(0, "text", pb.CHOSEN_BY_TAIL, measured(0.5)),
        older.finish,
    ):
        with pytest.raises(Fenced):
            call()
    assert newer.select(0) is not None


def test_heartbeats_show_that_the_worker_is_alive(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    client.start(pb.WorkerInfo(ranks=2))
    client.heartbeat(5, step=50, steps_per_second=12.5)

    def heartbeat_arrived() -> bool:
        worker = stub.GetRun(pb.GetRunRequest(run=run)).run.workers[0]
        return worker.alive and worker.round == 5 and worker.steps_per_second == 12.5

    eventually(heartbeat_arrived)


def test_another_spec_is_refused_with_the_field(connect: Connect) -> None:
    connect("a").start()
    with pytest.raises(BanditRefused, match="seed") as caught:
        connect("b", spec=spec(seed=8)).start()
    assert caught.value.reason == "spec_mismatch"


def test_wait_ready_refuses_a_worker_that_may_not_join(connect: Connect, run: str, stub: BanditStub) -> None:
    connect("early").wait_ready()
    assert run not in {r.run for r in stub.ListRuns(pb.ListRunsRequest()).runs}, "a check creates nothing"
    first = connect("a")
    first.start()
    connect("b").wait_ready()
    assert [worker.worker for worker in stub.GetRun(pb.GetRunRequest(run=run)).run.workers] == ["a"], "nor joins"
    with pytest.raises(BanditRefused, match="seed is 7, not 8"):
        connect("c", spec=spec(seed=8)).wait_ready()
    pull = first.select(0)
    assert pull is not None
    first.report(0, pull.arm, pull.chosen_by, measured(0.9))
    first.finish()
    first.close()
    with pytest.raises(BanditRefused, match=f"run {run} has ended; choose another --run"):
        connect("d").wait_ready()
    connect("a").wait_ready()
    stub.DeleteRun(pb.DeleteRunRequest(run=run, force=True))
    with pytest.raises(BanditRefused, match="was deleted"):
        connect("e").wait_ready()


def test_of_workers_that_leave_the_length_of_rounds_open_the_first_decides(connect: Connect) -> None:
    def rounds_of(steps: int, seed: int = 7) -> pb.RunSpec:
        chosen = spec(seed=seed)
        chosen.steps_per_round, chosen.rounds = steps, 100
        return chosen

    first, second = (connect(name, spec=rounds_of(0)) for name in "ab")
    for client in (first, second):
        client.wait_ready()
        assert client.spec.steps_per_round == 0
    assert first.settle(rounds_of(20)) == 20
    assert second.settle(rounds_of(50)) == 20, "the second worker comes too late"
    assert second.settle(rounds_of(20)) == 20
    assert [client.start().created for client in (first, second)] == [False, False]
    late = connect("c", spec=rounds_of(0))
    late.wait_ready()
    assert late.spec.steps_per_round == 20
    shorter = rounds_of(20)
    shorter.rounds = 50
    with pytest.raises(BanditRefused, match="rounds is 100, not 50"):
        late.settle(shorter)
    with pytest.raises(BanditRefused, match="seed is 7, not 8"):
        connect("d", spec=rounds_of(0, seed=8)).wait_ready()


def test_a_bad_name_is_refused(connect: Connect) -> None:
    with pytest.raises(BanditRefused) as caught:
        connect(run="no spaces").start()
    assert caught.value.reason == "invalid"


def test_a_deleted_run_is_not_created_again(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect(patience=30.0)
    client.start()
    client.select(0)
    stub.DeleteRun(pb.DeleteRunRequest(run=run, force=True))
    began = time.monotonic()
    for round in range(1, 4):
        pull = client.select(round)
        assert pull is not None
        assert pull.chosen_by == pb.CHOSEN_BY_FALLBACK
        assert not client.report(round, pull.arm, pull.chosen_by, measured(0.9)).delivered
    assert client.flush(20) == 3
    assert time.monotonic() - began < 5, "there is nothing to wait for"
    assert run not in {r.run for r in stub.ListRuns(pb.ListRunsRequest()).runs}
    with pytest.raises(BanditRefused) as caught:
        connect("b").start()
    assert caught.value.reason == "run_deleted"


def test_a_refused_report_does_not_block_others(connect: Connect, run: str, stub: BanditStub) -> None:
    client = connect()
    client.start()
    assert not client.report(0, "nonsense", pb.CHOSEN_BY_FALLBACK, measured(0.9)).delivered
    assert client.report(1, "text", pb.CHOSEN_BY_FALLBACK, measured(0.9)).delivered
    assert client.flush(0) == 0
    assert stub.GetRun(pb.GetRunRequest(run=run)).run.reports == 1


def test_an_unreachable_server_is_one_sentence(connect: Connect) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for begin in (BanditClient.wait_ready, BanditClient.start):
        with pytest.raises(BanditUnreachable, match=f"no bandit server at {nobody} .*optima serve"):
            begin(connect(address=nobody, patience=0.2))


def test_a_worker_may_start_offline_if_it_says_so(connect: Connect, run: str, tmp_path: Path) -> None:
    client = connect(address=f"127.0.0.1:{free_port()}", patience=0.2, allow_offline=True)
    client.wait_ready()
    assert client.start() == Joined(run, "", created=False, next_round=0)
    began = time.monotonic()
    arms = []
    for round in range(4):
        pull = client.select(round)
        assert pull is not None
        assert pull.chosen_by == pb.CHOSEN_BY_FALLBACK
        arms.append(pull.arm)
        assert not client.report(round, pull.arm, pull.chosen_by, measured(0.9)).delivered
    assert time.monotonic() - began < 0.5, "the patience was spent at the start"
    assert arms == [*ARMS, "image"]
    assert client.flush(0) == 4
    lines = [json.loads(line) for line in (tmp_path / "w.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["kind"] for line in lines] == ["worker"] + ["pull", "report"] * 4


def test_rounds_trained_offline_are_reported_once_there_is_a_server(
    connect: Connect, run: str, stub: BanditStub
) -> None:
    offline = connect(address=f"127.0.0.1:{free_port()}", patience=0.2, allow_offline=True)
    offline.start()
    for round in range(4):
        pull = offline.select(round)
        assert pull is not None
        offline.report(round, pull.arm, pull.chosen_by, measured(0.9))
    offline.close()
    online = connect()
    assert online.start().next_round == 4
    assert online.flush(10) == 0
    summary = stub.GetRun(pb.GetRunRequest(run=run)).run
    assert {arm.arm.name: arm.pulls for arm in summary.arms} == {"image": 2, "text": 1, "decoder": 1}


def test_wait_ready_finds_a_server(connect: Connect) -> None:
    connect().wait_ready()
