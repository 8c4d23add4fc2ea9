"""Training continues, and no reward is lost or counted twice, whatever happens to the server."""

from __future__ import annotations

import fcntl
import json
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditServicer, BanditStub, add_BanditServicer_to_server
from tests.faults.idle_worker import PATIENCE, assert_every_reward_counts_once, idle_worker
from tests.launch import ROOT
from tests.network import Network
from tests.server_process import ServerProcess
from worker.client.client import Reported
from worker.client.journal import Pull
from worker.client.testing import PlayedRound, numbered_losses
from worker.deliver import deliver
from worker.errors import Fenced, JournalError, WorkerError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    # Synced at every append: `kill` ends the store too, which otherwise may lose its last two seconds.
    process = ServerProcess(tmp_path / "store", flags=("--fsync", "always"))
    yield process
    process.kill()


def test_server_killed_and_back_costs_one_patience_and_no_reward(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(5)
        server.kill()
        worker.waited = 0.0
        away = worker.play(20)
        assert worker.waited < PATIENCE + 0.4
        first, *others = away
        assert first.pull.chosen_by == pb.CHOSEN_BY_POLICY, "it came with the response to the last report"
        assert {played.pull.chosen_by for played in others} == {pb.CHOSEN_BY_FALLBACK}
        assert not any(played.reported.delivered for played in away)
        server.start()
        assert worker.client.flush(15) == 0
        back = worker.play(5)
        assert {played.pull.chosen_by for played in back} == {pb.CHOSEN_BY_POLICY}
        assert_every_reward_counts_once(server, worker)
        run = server.run()
        assert not run.restored, "nothing was lost, so nothing had to be restored"
        assert run.reports == 30
        assert sum(arm.pulls for arm in run.arms) == 30 + 1, "the arms trained in the meantime are counted"


def test_server_gone_for_ever_costs_one_patience_and_the_journal_keeps_all(
    server: ServerProcess, tmp_path: Path
) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(2)
        server.kill()
        worker.waited = 0.0
        worker.play(300)
        assert worker.waited < PATIENCE + 1.0
        assert worker.client.flush(0.1) == 300
        start = time.monotonic()
        assert worker.client.flush() == 300
    assert time.monotonic() - start < 1.0, "the end must not wait again for a server that is gone"
    server.start()
    with idle_worker(server.address, tmp_path) as successor:
        assert successor.next_round == 302
        assert successor.client.flush(15) == 0
        successor.played |= worker.played
        assert_every_reward_counts_once(server, successor)


def test_server_killed_while_a_report_waits(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(1)
        server.freeze()
        restart = threading.Thread(target=server.restart)
        restart.start()
        (played,) = worker.play(1)
        restart.join()
        assert played.reported.delivered, "a server that is back within the patience costs only the wait"
        assert_every_reward_counts_once(server, worker)


def test_frozen_server_costs_one_patience(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(3)
        server.freeze()
        worker.waited = 0.0
        worker.play(20)
        assert worker.waited < PATIENCE + 0.4
        server.thaw()
        assert worker.client.flush(15) == 0
        worker.play(3)
        assert_every_reward_counts_once(server, worker)


def test_frozen_store_costs_one_patience(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(3)
        store = server.store()
        store.suspend()
        worker.waited = 0.0
        worker.play(10)
        assert worker.waited < PATIENCE + 0.4
        store.resume()
        assert worker.client.flush(20) == 0
        worker.play(3)
        assert_every_reward_counts_once(server, worker)


def test_successor_of_a_killed_worker_sends_its_unsent_reports(server: ServerProcess, tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from tests.faults.idle_worker import idle_worker;"
        "w = idle_worker(sys.argv[1], Path(sys.argv[2])); w.play(3); print('playing', flush=True); input(); w.play(4);"
        "print(json.dumps([played.pull.arm for played in w.played.values()]), flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, server.address, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "playing\n"
        server.kill()
        process.stdin.write("\n")
        process.stdin.flush()
        arms = json.loads(process.stdout.readline())
        process.kill()
    server.start()
    with idle_worker(server.address, tmp_path) as successor:
        assert successor.next_round == 7
        assert successor.client.flush(15) == 0
        for round, arm in enumerate(arms):
            pull = Pull(arm, None, pb.CHOSEN_BY_POLICY)
            answer = Reported(None, duplicate=False, delivered=False)
            successor.played[round] = PlayedRound(pull, numbered_losses(round, arm), answer)
        assert_every_reward_counts_once(server, successor)


def test_a_newer_process_fences_the_older(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as older:
        older.play(3)
        with idle_worker(server.address, tmp_path) as newer:
            with pytest.raises(Fenced, match="newer"):
                older.play(2)
            newer.played |= older.played
            newer.play(3)
            assert_every_reward_counts_once(server, newer)


@pytest.mark.timeout(60)
def test_connection_that_drops_all_packets_is_replaced(server: ServerProcess, tmp_path: Path) -> None:
    network = Network(server.address)
    try:
        with idle_worker(network.address, tmp_path) as worker:
            worker.play(2)
            network.cut()
            worker.waited = 0.0
            worker.play(5)
            assert worker.waited < PATIENCE + 0.4
            assert worker.client.flush(40) == 0
            worker.play(2)
            assert_every_reward_counts_once(server, worker)
    finally:
        network.close()


class Undecided(BanditServicer):
    """Forwards every call of a worker, except those that choose an arm, which fail."""

    def __init__(self, server: BanditStub) -> None:
        self._server = server

    def CreateRun(self, request: pb.CreateRunRequest, context: grpc.ServicerContext) -> pb.CreateRunResponse:
        return self._server.CreateRun(request)

    def Heartbeat(self, request: pb.HeartbeatRequest, context: grpc.ServicerContext) -> pb.HeartbeatResponse:
        return self._server.Heartbeat(request)

    def ReportReward(self, request: pb.ReportRewardRequest, context: grpc.ServicerContext) -> pb.ReportRewardResponse:
        if request.HasField("select_round"):
            context.abort(grpc.StatusCode.INTERNAL, "internal error")
        return self._server.ReportReward(request)

    def SelectArm(self, request: pb.SelectArmRequest, context: grpc.ServicerContext) -> pb.SelectArmResponse:
        context.abort(grpc.StatusCode.INTERNAL, "internal error")


def test_server_that_takes_reports_but_cannot_choose_costs_one_patience(server: ServerProcess, tmp_path: Path) -> None:
    front = grpc.server(ThreadPoolExecutor())
    port = front.add_insecure_port("127.0.0.1:0")
    with server.stub() as stub:
        # Abstract in the stubs only: a method that it does not define answers UNIMPLEMENTED.
        servicer = Undecided(stub)  # type: ignore[abstract]
        add_BanditServicer_to_server(servicer, front)
        front.start()
        with idle_worker(f"127.0.0.1:{port}", tmp_path, patience=2.0) as worker:
            for _ in range(5):
                (played,) = worker.play()
                assert played.pull.chosen_by == pb.CHOSEN_BY_FALLBACK
                assert worker.client.flush(15) == 0
            assert worker.waited < 2 * 2.0
            assert_every_reward_counts_once(server, worker)
        front.stop(None)


def test_journal_that_cannot_be_written_ends_the_worker_at_once(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(2)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # As on a full disk.
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "w.jsonl").stat().st_size, limits[1]))
        try:
            with pytest.raises(JournalError, match="cannot be written"):
                worker.client.select(3)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, previous)


def test_the_output_of_a_running_job_is_not_delivered(server: ServerProcess, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="is not a worker's output directory"):
        deliver(tmp_path, server.address)
    (tmp_path / "bandit-journal.jsonl").touch()
    with (tmp_path / "worker-id").open("w") as identity:
        fcntl.flock(identity, fcntl.LOCK_EX)
        with pytest.raises(WorkerError, match="still running"):
            deliver(tmp_path, server.address)
    with pytest.raises(JournalError, match="is empty"):
        deliver(tmp_path, server.address)
