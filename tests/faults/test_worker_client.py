"""Training goes on, and no reward is lost or counted twice, whatever happens to the server (DESIGN.md §8)."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.launch import ROOT
from tests.server_process import ServerProcess
from worker.bandit_client import BanditClient, Pull, Reported
from worker.errors import Fenced
from worker.journal import Journal

PATIENCE = 0.5
SPEC = pb.RunSpec(
    arms=[pb.Arm(name=name, modules=[name]) for name in ("image", "text", "decoder")],
    policy=pb.PolicySpec(name="optima"),
    seed=7,
    reward=pb.REWARD_KIND_RELATIVE,
    train=pb.TRAIN_MODE_FORCED,
    steps_per_round=1,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store")
    yield process
    process.kill()


class Worker:
    """A client that plays rounds without training anything; times what the trainer's thread waits."""

    def __init__(self, address: str, directory: Path, worker: str = "w", patience: float = PATIENCE) -> None:
        journal = Journal(directory / f"{worker}.jsonl")
        self.client = BanditClient(address, run="r", worker=worker, spec=SPEC, journal=journal, patience=patience)
        self.next_round = self.client.start().next_round
        self.told: dict[int, float] = {}
        self.arms: list[str] = []
        self.seconds = 0.0

    def play(self, rounds: int = 1) -> list[tuple[Pull, Reported]]:
        """Select and report so many rounds."""
        played = []
        for round in range(self.next_round, self.next_round + rounds):
            began = time.monotonic()
            pull = self.client.select(round)
            assert pull is not None
            self.told[round] = 1 - (round + 1) / 1000
            measurement = pb.Measurement(
                outcome=pb.OUTCOME_MEASURED, before=1.0, after=self.told[round], steps=1, seconds=0.1
            )
            played.append((pull, self.client.report(round, pull.arm, pull.chosen_by, measurement)))
            self.arms.append(pull.arm)
            self.seconds += time.monotonic() - began
        self.next_round += rounds
        return played

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


def assert_every_reward_counts_once(server: ServerProcess, *workers: Worker) -> None:
    reports = server.reports()
    for worker in workers:
        ours = {r.pull.round: r for r in reports if r.pull.worker == worker.client.worker}
        assert sum(r.pull.worker == worker.client.worker for r in reports) == len(ours), "a round was counted twice"
        assert {round: r.measurement.after for round, r in ours.items()} == worker.told
        assert [ours[round].pull.arm for round in sorted(ours)] == worker.arms
        assert all(r.reward == pytest.approx(1 - r.measurement.after) for r in ours.values())
    numbers = [r.pull.number for r in reports]
    assert len(set(numbers)) == len(numbers), "two pulls have one number"


def test_server_killed_and_back_costs_one_patience_and_no_reward(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(5)
        server.kill()
        worker.seconds = 0.0
        away = worker.play(20)
        assert worker.seconds < PATIENCE + 0.4
        assert {pull.chosen_by for pull, _ in away} == {pb.CHOSEN_BY_FALLBACK}
        assert not any(reported.delivered for _, reported in away)
        server.start()
        assert worker.client.flush(15) == 0
        back = worker.play(5)
        assert {pull.chosen_by for pull, _ in back} == {pb.CHOSEN_BY_POLICY}
        assert_every_reward_counts_once(server, worker)
        run = server.run()
        assert not run.restored, "nothing was lost, so nothing had to be restored"
        assert sum(arm.pulls for arm in run.arms) == 30, "the arms trained meanwhile are in the posterior"


def test_server_gone_for_ever_costs_one_patience_and_the_journal_keeps_all(
    server: ServerProcess, tmp_path: Path
) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(2)
        server.kill()
        worker.seconds = 0.0
        worker.play(300)
        assert worker.seconds < PATIENCE + 1.0
        assert worker.client.flush(0.1) == 300
        began = time.monotonic()
    assert time.monotonic() - began < 1.0, "closing must not wait for a server that is gone"
    server.start()
    with Worker(server.address, tmp_path) as successor:
        assert successor.next_round == 302
        assert successor.client.flush(15) == 0
        successor.told, successor.arms = worker.told, worker.arms
        assert_every_reward_counts_once(server, successor)


def test_server_killed_while_a_report_waits(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(1)
        server.freeze()
        restart = threading.Thread(target=server.restart)
        restart.start()
        (_, reported), *_ = worker.play(1)
        restart.join()
        assert reported.delivered, "a server that is back within the patience costs nothing but the wait"
        assert_every_reward_counts_once(server, worker)


def test_frozen_server_costs_one_patience(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(3)
        server.freeze()
        worker.seconds = 0.0
        worker.play(20)
        assert worker.seconds < PATIENCE + 0.4
        server.thaw()
        assert worker.client.flush(15) == 0
        worker.play(3)
        assert_every_reward_counts_once(server, worker)


def test_frozen_store_costs_one_patience(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(3)
        store = server.store()
        store.suspend()
        worker.seconds = 0.0
        worker.play(10)
        assert worker.seconds < PATIENCE + 0.4
        store.resume()
        assert worker.client.flush(20) == 0
        worker.play(3)
        assert_every_reward_counts_once(server, worker)


def test_emptied_store_is_rebuilt_from_the_journal(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(30)
        before = server.run()
        numbers = {r.pull.round: r.pull.number for r in server.reports()}
        server.lose_everything()
        (pull, reported), *_ = worker.play(1)
        assert pull.chosen_by == pb.CHOSEN_BY_POLICY
        assert reported.delivered
        assert_every_reward_counts_once(server, worker)
        after = server.run()
        assert after.restored
        assert after.incarnation != before.incarnation
        assert {r.pull.round: r.pull.number for r in server.reports()} | numbers == {
            r.pull.round: r.pull.number for r in server.reports()
        }, "pulls keep their numbers"
        worker.play(5)
        assert server.run().incarnation == after.incarnation, "restored once"


def test_store_rolled_back_is_brought_forward_again(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(5)
        server.kill()
        shutil.copytree(server.data, tmp_path / "backup", ignore=shutil.ignore_patterns("*.sock"))
        server.start()
        worker.play(10)
        server.kill()
        shutil.rmtree(server.data)
        shutil.copytree(tmp_path / "backup", server.data)
        server.start()
        worker.play(5)
        assert_every_reward_counts_once(server, worker)
        assert server.run().restored


def test_two_workers_give_back_a_run_together(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path, "a", patience=20.0) as a, Worker(
        server.address, tmp_path, "b", patience=20.0
    ) as b:  # fmt: skip
        for _ in range(10):
            a.play()
            b.play()
        assert_every_reward_counts_once(server, a, b)
        server.lose_everything()
        for _ in range(5):
            a.play()
            b.play()
        assert_every_reward_counts_once(server, a, b)
        incarnation = server.run().incarnation
        a.play(2)
        b.play(2)
        assert server.run().incarnation == incarnation, "the two do not undo each other's work"


def test_long_journal_is_given_back_in_several_calls(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(1)
        server.kill()
        worker.play(4500)
        shutil.rmtree(server.data)
        server.start()
        assert worker.client.flush(60) == 0
        assert_every_reward_counts_once(server, worker)


def test_a_journal_alone_rebuilds_the_run(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as worker:
        worker.play(12)
    server.lose_everything()
    with Worker(server.address, tmp_path) as successor:
        assert successor.next_round == 12
        successor.told, successor.arms = dict(worker.told), list(worker.arms)
        successor.play(3)
        assert_every_reward_counts_once(server, successor)


def test_killed_worker_sends_what_it_had_not_sent(server: ServerProcess, tmp_path: Path) -> None:
    code = (
        "import json, sys; from pathlib import Path; from tests.faults.test_worker_client import Worker;"
        "w = Worker(sys.argv[1], Path(sys.argv[2])); w.play(3); print('playing', flush=True); input(); w.play(4);"
        "print(json.dumps([list(w.told.values()), w.arms]), flush=True); input()"
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
        told, arms = json.loads(process.stdout.readline())
        process.kill()
    server.start()
    with Worker(server.address, tmp_path) as successor:
        assert successor.next_round == 7
        assert successor.client.flush(15) == 0
        successor.told, successor.arms = dict(enumerate(told)), arms
        assert_every_reward_counts_once(server, successor)


def test_a_newer_process_fences_the_older(server: ServerProcess, tmp_path: Path) -> None:
    with Worker(server.address, tmp_path) as older:
        older.play(3)
        with Worker(server.address, tmp_path) as newer:
            with pytest.raises(Fenced, match="newer"):
                older.play(2)
            newer.told, newer.arms = {k: v for k, v in older.told.items() if k < 3}, older.arms
            newer.play(3)
            assert_every_reward_counts_once(server, newer)


class Proxy:
    """Passes bytes between client and server until it is told to swallow them without a word."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._cut: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on the connections that there are carry nothing; new ones do."""
        self._cut |= self._open

    def close(self) -> None:
        for connection in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection(self._target)
                self._open |= {near, far}
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if source not in self._cut:
                    sink.sendall(data)
            if source not in self._cut:
                sink.shutdown(socket.SHUT_WR)


@pytest.mark.timeout(60)
def test_connection_cut_without_a_word_is_given_up_for_a_new_one(server: ServerProcess, tmp_path: Path) -> None:
    proxy = Proxy(server.address)
    try:
        with Worker(proxy.address, tmp_path) as worker:
            worker.play(2)
            proxy.cut()
            worker.seconds = 0.0
            worker.play(5)
            assert worker.seconds < PATIENCE + 0.4
            assert worker.client.flush(40) == 0
            worker.play(2)
            assert_every_reward_counts_once(server, worker)
    finally:
        proxy.close()
