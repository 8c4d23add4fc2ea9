"""The RPCs, called over gRPC on a real server with a real store."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import ARMS, PAYS, Player, connected, history, measured, spec, told

RUNS = itertools.count()
NAN = float("nan")


@pytest.fixture
def stub(address: str) -> Iterator[BanditStub]:
    with connected(address) as stub:
        yield stub


@pytest.fixture
def run() -> str:
    return f"service-{next(RUNS)}"


def refused(call: Callable[[], object]) -> tuple[str, str, str]:
    """Make a call that must be refused; return its status, reason and message."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    reason = dict(error.trailing_metadata() or ()).get("optima-reason", "")
    return error.code().name, str(reason), str(error.details())


def test_rounds_are_chosen_and_reported_and_change_the_posterior(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    assert (player.joined.created, player.joined.next_round) == (True, 0)
    arms = player.play(range(30))
    summary = told(stub, run)
    assert (summary.pulls, summary.reports, summary.state) == (30, 30, pb.RUN_STATE_ACTIVE)
    assert {arm.arm.name: arm.pulls for arm in summary.arms} == {name: arms.count(name) for name in ARMS}
    assert all(arm.HasField("mean") and arm.sd > 0 for arm in summary.arms)
    assert sum(arm.p_best for arm in summary.arms) == pytest.approx(1)
    assert max(summary.arms, key=lambda arm: arm.mean).arm.name == "decoder", "the arm that pays most"


def test_a_repeated_select_is_the_same_pull(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    first, again = player.select(0), player.select(0)
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.pull, again.fallback_arms) == (first.pull, first.fallback_arms)
    assert len(first.fallback_arms) == 64
    assert told(stub, run).pulls == 1


def test_the_first_report_stands(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    arm = player.select(0).pull.arm
    first = player.report(0, arm, 0.75)
    again = player.report(0, arm, 0.75)
    assert (first.duplicate, again.duplicate, again.report) == (False, True, first.report)
    assert first.report.reward == pytest.approx(0.25)
    with pytest.raises(grpc.RpcError) as caught:
        player.report(0, arm, 0.5)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    stored = dict(caught.value.trailing_metadata() or ())["optima-stored-report-bin"]
    assert pb.RewardReported.FromString(stored) == first.report
    assert told(stub, run).reports == 1


@pytest.mark.parametrize("policy", ["optima", "sliding_window_ts", "uniform", "round_robin", "joint", "fixed:text"])
def test_a_report_may_select_the_next_arm_in_the_same_call(stub: BanditStub, run: str, policy: str) -> None:
    apart, together = Player(stub, run, policy=policy), Player(stub, f"{run}-together", policy=policy)
    arms = [together.select(0).pull.arm]
    for round in range(20):
        response = together.report(round, arms[-1], 1 - PAYS[arms[-1]] / (round + 20), select_round=round + 1)
        assert (response.duplicate, response.selected.duplicate) == (False, False)
        assert response.selected.version == response.version + 1 == 2 * round + 5
        arms.append(response.selected.pull.arm)
    assert arms[:-1] == apart.play(range(20)), "what two calls choose"
    assert len(response.selected.fallback_arms) == 64
    again = together.report(19, arms[-2], 1 - PAYS[arms[-2]] / 39, select_round=20)
    assert (again.duplicate, again.selected.duplicate) == (True, True)
    assert (again.report, again.selected.pull) == (response.report, response.selected.pull)
    stub.FinishRun(pb.FinishRunRequest(run=together.caller.run))
    last = together.report(20, arms[-1], 0.9, select_round=21)
    assert (last.duplicate, last.selected.finished) == (False, True)
    assert (told(stub, together.caller.run).pulls, told(stub, together.caller.run).reports) == (21, 21)


def test_rounds_older_than_those_in_memory_are_read_from_the_store(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    first = player.select(0)
    report = player.report(0, first.pull.arm, 0.9)
    player.play(range(1, 100))
    assert player.select(0).pull == first.pull
    assert player.report(0, first.pull.arm, 0.9).report == report.report
    assert refused(lambda: player.report(0, first.pull.arm, 0.8))[:2] == ("ALREADY_EXISTS", "report_conflict")
    assert told(stub, run).reports == 100


def test_every_policy_of_the_server_plays(stub: BanditStub, run: str) -> None:
    arms = {
        policy: Player(stub, f"{run}-{at}", policy=policy).play(range(6))
        for at, policy in enumerate(("uniform", "round_robin", "joint", "fixed:text", "optima"))
    }
    assert arms["round_robin"] == [*ARMS, *ARMS]
    assert arms["joint"] == ["joint"] * 6
    assert arms["fixed:text"] == ["text"] * 6
    assert set(arms["uniform"]) <= set(ARMS)
    assert set(arms["optima"][:3]) == set(ARMS), "each arm is tried once before any is played again"


def test_workers_share_what_they_learn(stub: BanditStub, run: str) -> None:
    one, two = Player(stub, run, worker="one"), Player(stub, run, worker="two")
    assert (one.joined.created, two.joined.created) == (True, False)
    for round in range(5):
        one.play(range(round, round + 1))
        two.play(range(round, round + 1))
    summary = told(stub, run)
    assert {worker.worker: worker.reports for worker in summary.workers} == {"one": 5, "two": 5}
    numbers = [e.arm_pulled.pull.number for e in history(stub, run) if e.HasField("arm_pulled")]
    assert numbers == list(range(10))


def test_a_newer_process_fences_the_older(stub: BanditStub, run: str) -> None:
    old = Player(stub, run, process="old")
    Player(stub, run, process="new")
    assert refused(lambda: old.select(0))[:2] == ("ABORTED", "fenced")


def test_another_spec_under_the_same_name_is_refused(stub: BanditStub, run: str) -> None:
    Player(stub, run)
    status, reason, sentence = refused(lambda: Player(stub, run, worker="other", seed=8))
    assert (status, reason) == ("FAILED_PRECONDITION", "spec_mismatch")
    assert "seed is 7, not 8" in sentence


def test_a_worker_that_has_seen_a_higher_version_gets_data_loss(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    player.caller.seen_version += 5
    assert refused(lambda: player.select(0))[:2] == ("DATA_LOSS", "data_loss")
    player.caller.incarnation = "another"
    assert refused(lambda: player.select(0))[:2] == ("DATA_LOSS", "data_loss")


def test_a_run_that_is_finished_says_so(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    open_pull = player.select(0).pull
    assert stub.FinishRun(pb.FinishRunRequest(run=run, actor="test")).run.state == pb.RUN_STATE_FINISHED
    stub.FinishRun(pb.FinishRunRequest(run=run))
    assert player.select(1).finished
    assert player.report(0, open_pull.arm, 0.9).report.pull == open_pull, "reports of open pulls are accepted"


def test_a_paused_arm_is_not_played(stub: BanditStub, run: str) -> None:
    player = Player(stub, run, policy="uniform")
    for name in ("image", "text"):
        stub.UpdateArm(pb.UpdateArmRequest(run=run, arm=name, paused=True))
    assert set(player.play(range(5))) == {"decoder"}
    status, reason, _ = refused(lambda: stub.UpdateArm(pb.UpdateArmRequest(run=run, arm="decoder", paused=True)))
    assert (status, reason) == ("FAILED_PRECONDITION", "arm_required")
    stub.UpdateArm(pb.UpdateArmRequest(run=run, arm="image", paused=False))
    assert "image" in player.play(range(5, 30))


def test_a_run_with_live_workers_is_deleted_only_with_force(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    player.play(range(3))
    status, reason, sentence = refused(lambda: stub.DeleteRun(pb.DeleteRunRequest(run=run)))
    assert (status, reason) == ("FAILED_PRECONDITION", "workers_alive")
    assert "(w)" in sentence
    stub.DeleteRun(pb.DeleteRunRequest(run=run, force=True))
    for call in (lambda: player.select(3), lambda: Player(stub, run)):
        assert refused(call)[:2] == ("FAILED_PRECONDITION", "run_deleted")
    assert run not in {summary.run for summary in stub.ListRuns(pb.ListRunsRequest()).runs}


def test_runs_are_listed_newest_first_a_page_at_a_time(stub: BanditStub, run: str) -> None:
    names = [f"{run}-{at}" for at in range(5)]
    for name in names:
        Player(stub, name)
    listed: list[str] = []
    request = pb.ListRunsRequest(page_size=2)
    while len(listed) < 5:
        page = stub.ListRuns(request)
        assert len(page.runs) == 2
        listed += [summary.run for summary in page.runs]
        request.page_token = page.next_page_token
    assert listed[:5] == names[::-1]


def test_a_list_shows_runs_as_they_are_now(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    for round in range(3):
        player.play(range(round, round + 1))
        first = stub.ListRuns(pb.ListRunsRequest(page_size=1)).runs[0]
        assert (first.run, first.reports, first.workers[0].alive) == (run, round + 1, True)


def test_a_watcher_sees_past_and_new_events(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    player.play(range(5))
    watching = stub.WatchRun(pb.WatchRunRequest(run=run), timeout=20)
    first = next(watching)
    assert (first.from_version, first.live, len(first.events)) == (0, True, first.run.version)
    assert [point.rewards for point in first.posterior] == [1, 2, 3, 4, 5]
    assert list(first.posterior[-1].mean) == [arm.mean for arm in first.run.arms]
    player.play(range(5, 6))
    seen = list(first.events)
    for batch in watching:
        assert batch.from_version == len(seen)
        seen += batch.events
        if len(seen) == batch.run.version == first.run.version + 2:
            break
    assert seen == history(stub, run)
    watching.cancel()


def test_a_watcher_resumes_where_it_was(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    player.play(range(5))
    incarnation = player.caller.incarnation
    for since, known, start in ((4, incarnation, 4), (4, "another", 0), (999, incarnation, 0)):
        request = pb.WatchRunRequest(run=run, from_version=since, incarnation=known)
        watching = stub.WatchRun(request, timeout=20)
        batch = next(watching)
        assert (batch.from_version, len(batch.events)) == (start, batch.run.version - start)
        watching.cancel()


def test_a_watch_ends_when_the_run_is_deleted(stub: BanditStub, run: str) -> None:
    Player(stub, run)
    watching = stub.WatchRun(pb.WatchRunRequest(run=run), timeout=20)
    assert next(watching).live
    stub.DeleteRun(pb.DeleteRunRequest(run=run, force=True))
    assert all(not batch.events for batch in watching)


def test_a_long_history_is_watched_in_batches_with_some_of_the_posterior(stub: BanditStub, run: str) -> None:
    player = Player(stub, run)
    records = [
        pb.JournalRecord(
            pull=pb.Pull(number=round, worker="w", round=round, arm=ARMS[round % 3], chosen_by=pb.CHOSEN_BY_POLICY),
            numbered=True,
            measurement=measured(0.99),
        )
        for round in range(6000)
    ]
    for start in range(0, 6000, 2000):
        response = stub.RestoreRun(
            pb.RestoreRunRequest(caller=player.caller, spec=spec(), records=records[start : start + 2000])
        )
        assert response.restored == 2000
        player.caller.incarnation, player.caller.seen_version = response.run.incarnation, response.run.version
    watching = stub.WatchRun(pb.WatchRunRequest(run=run), timeout=60)
    batches = []
    for batch in watching:
        batches.append(batch)
        if batch.live:
            break
    watching.cancel()
    assert max(len(batch.events) for batch in batches) <= 1000
    assert sum(len(batch.events) for batch in batches) == batches[-1].run.version
    points = [point for batch in batches for point in batch.posterior]
    assert 1000 <= len(points) <= 2000
    assert points[-1].rewards == 6000


BAD = pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (lambda s, p: s.GetRun(pb.GetRunRequest(run="nowhere")), "NOT_FOUND", "there is no run nowhere"),
        (lambda s, p: s.GetRun(pb.GetRunRequest(run="a b")), "INVALID_ARGUMENT", "run 'a b' is not a valid name"),
        (lambda s, p: s.GetRun(pb.GetRunRequest(run="..")), "INVALID_ARGUMENT", "run '..' is not a valid name"),
        (lambda s, p: s.GetRun(pb.GetRunRequest(run="x" * 10_000_000)), "INVALID_ARGUMENT", "(10000000 characters)"),
        (lambda s, p: s.ListRuns(pb.ListRunsRequest(page_token="?")), "INVALID_ARGUMENT", "page_token"),
        (lambda s, p: s.WatchRun(pb.WatchRunRequest(run="nowhere")).__next__(), "NOT_FOUND", "there is no run"),
        (lambda s, p: s.DeleteRun(pb.DeleteRunRequest(run="nowhere")), "NOT_FOUND", "there is no run nowhere"),
        (lambda s, p: s.UpdateArm(pb.UpdateArmRequest(run=p.caller.run, arm="txt", paused=True)), "INVALID_ARGUMENT",
         "did you mean 'text'?"),
        (lambda s, p: p.select(-1), "INVALID_ARGUMENT", "round is -1"),
        (lambda s, p: p.report(0, "txt", 0.5, pb.CHOSEN_BY_FALLBACK), "INVALID_ARGUMENT", "did you mean 'text'?"),
        (lambda s, p: p.report(0, "text", NAN, pb.CHOSEN_BY_FALLBACK), "INVALID_ARGUMENT", "measurement.after is nan"),
        (lambda s, p: p.report(-3, "text", 0.5, pb.CHOSEN_BY_FALLBACK), "INVALID_ARGUMENT", "round is -3"),
        (lambda s, p: p.report(0, "text", 0.5, pb.CHOSEN_BY_FALLBACK, -3), "INVALID_ARGUMENT", "round is -3"),
        (lambda s, p: Player(s, "new", policy="best"), "INVALID_ARGUMENT", "the server offers no policy 'best'"),
        (lambda s, p: Player(s, "new", policy="fixed:txt"), "INVALID_ARGUMENT", "must name one of the arms"),
        (lambda s, p: Player(s, "new", tail=2.0), "INVALID_ARGUMENT", "spec.tail is 2.0"),
        (lambda s, p: s.SelectArm(pb.SelectArmRequest(caller=pb.Caller(run="new", worker="w", process="p"))),
         "NOT_FOUND", "there is no run new"),
    ],
)  # fmt: skip


@BAD
def test_bad_input_gets_one_sentence_and_changes_nothing(
    stub: BanditStub, run: str, call: Callable[[BanditStub, Player], object], status: str, words: str
) -> None:
    player = Player(stub, run)
    before = told(stub, run)
    code, reason, sentence = refused(lambda: call(stub, player))
    assert (code, bool(reason)) == (status, True)
    assert words in sentence
    assert "\n" not in sentence
    assert told(stub, run) == before
    assert refused(lambda: stub.GetRun(pb.GetRunRequest(run="new")))[0] == "NOT_FOUND"


def test_garbage_is_refused(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/optima.v1.Bandit/GetRun")
        assert refused(lambda: call(b"\xff\xff\xff\xff", timeout=5))[:2] == ("INVALID_ARGUMENT", "invalid")


def test_health_and_reflection_are_served(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        # The stubs of both do not list the methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "optima.v1.Bandit"):
            status = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status
            assert status == health_pb2.HealthCheckResponse.SERVING
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        response = next(reflection.ServerReflectionInfo(iter([request]), timeout=5))
        names = {service.name for service in response.list_services_response.service}
    assert "optima.v1.Bandit" in names
