"""A store loses history, all of it or the end: the workers notice it, and restore it from their journals."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from protos.optima.v1 import bandit_pb2 as pb
from tests.faults.idle_worker import assert_every_reward_counts_once, idle_worker
from tests.server_process import ServerProcess


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store")
    yield process
    process.kill()


def test_emptied_store_is_rebuilt_from_the_journal(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path, patience=20.0) as worker:
        worker.play(30)
        before = server.run()
        numbers = {r.pull.round: r.pull.number for r in server.reports()}
        server.lose_everything()
        (played,) = worker.play(1)
        assert played.pull.chosen_by == pb.CHOSEN_BY_POLICY
        assert played.reported.delivered
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
    with idle_worker(server.address, tmp_path, patience=20.0) as worker:
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
    with idle_worker(server.address, tmp_path, "a", patience=20.0) as a, idle_worker(
        server.address, tmp_path, "b", patience=20.0
    ) as b:  # fmt: skip
        for _ in range(10):
            a.play()
            b.play()
        assert_every_reward_counts_once(server, a, b)
        server.lose_everything()
        # Both notice and restore at the same time.
        with ThreadPoolExecutor() as threads:
            for playing in [threads.submit(worker.play, 5) for worker in (a, b)]:
                playing.result(60)
        assert_every_reward_counts_once(server, a, b)
        incarnation = server.run().incarnation
        a.play(2)
        b.play(2)
        assert server.run().incarnation == incarnation, "the two do not undo each other's work"


def test_long_journal_is_given_back_in_several_calls(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(1)
        server.kill()
        worker.play(4500)
        shutil.rmtree(server.data)
        server.start()
        assert worker.client.flush(60) == 0
        assert_every_reward_counts_once(server, worker)


def test_a_journal_alone_rebuilds_the_run(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(12)
    server.lose_everything()
    with idle_worker(server.address, tmp_path) as successor:
        assert successor.next_round == 12
        successor.played |= worker.played
        successor.play(3)
        assert_every_reward_counts_once(server, successor)


def test_a_loss_that_others_have_filled_up_again_is_still_noticed(server: ServerProcess, tmp_path: Path) -> None:
    with idle_worker(server.address, tmp_path, "a", patience=20.0) as a:
        a.play(5)
        server.kill()
        shutil.copytree(server.data, tmp_path / "backup", ignore=shutil.ignore_patterns("*.sock"))
        server.start()
        a.play(3)
    server.kill()
    shutil.rmtree(server.data)
    shutil.copytree(tmp_path / "backup", server.data)
    server.start()
    with idle_worker(server.address, tmp_path, "b", patience=20.0) as b:
        b.play(10)
        with idle_worker(server.address, tmp_path, "a", patience=20.0) as successor:
            successor.played |= a.played
            successor.play(2)
            b.play(1)
            assert_every_reward_counts_once(server, successor, b)
            assert server.run().restored


def test_a_round_that_the_server_refuses_does_not_stop_the_restore_of_the_others(
    server: ServerProcess, tmp_path: Path
) -> None:
    with idle_worker(server.address, tmp_path) as worker:
        worker.play(3)
        server.kill()
        worker.play(3)
        # A relative reward is not defined for a loss of 0.
        zero = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=0.0, after=0.0, steps=1)
        worker.client.report(worker.next_round, "text", pb.CHOSEN_BY_FALLBACK, zero)
        worker.next_round += 1
        worker.play(3)
        shutil.rmtree(server.data)
        server.start()
        assert worker.client.flush(30) == 0
        assert_every_reward_counts_once(server, worker)
        assert {report.pull.round for report in server.reports()} == {*range(10)} - {6}
