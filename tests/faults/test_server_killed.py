"""Servers and stores are killed and frozen, and no history changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import psutil
import pytest

from tests.calls import Player, connected, history, run_summary
from tests.server_process import ServerProcess, eventually
from tests.stores import RedisServer, process_id


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "redis"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ServerProcess]:
    url = request.getfixturevalue("redis").url if request.param == "redis" else None
    process = ServerProcess(tmp_path / "store", url)
    yield process
    process.kill()


def test_state_is_equal_after_a_kill_between_any_two_rounds(server: ServerProcess) -> None:
    arms: list[str] = []
    for process in range(4):
        with connected(server.address) as stub:
            player = Player(stub, "r", process=f"p{process}")
            assert player.joined.next_round == len(arms)
            arms += player.play(range(len(arms), len(arms) + 5))
            open_pull = player.select(len(arms))
            before, events = run_summary(stub, "r"), history(stub, "r")
        server.restart()
        with connected(server.address) as stub:
            assert run_summary(stub, "r") == before
            assert history(stub, "r") == events
            player.stub = stub
            again = player.select(len(arms))
            assert (again.duplicate, again.pull) == (True, open_pull.pull)
            arms += player.play(range(len(arms), len(arms) + 1))
    with connected(server.address) as stub:
        reported = [e.reward_reported.pull for e in history(stub, "r") if e.HasField("reward_reported")]
    assert [(pull.round, pull.number, pull.arm) for pull in reported] == [(at, at, arm) for at, arm in enumerate(arms)]


def test_choices_are_the_same_on_a_server_that_was_killed(server: ServerProcess) -> None:
    with connected(server.address) as stub:
        unbroken = Player(stub, "unbroken").play(range(12))
        broken = Player(stub, "broken").play(range(6))
    server.restart()
    with connected(server.address) as stub:
        broken += Player(stub, "broken", process="later").play(range(6, 12))
    assert broken == unbroken


def test_two_replicas_serve_one_run_and_one_goes_on_alone(redis: RedisServer, tmp_path: Path) -> None:
    replicas = [ServerProcess(tmp_path / name, redis.url) for name in ("a", "b")]
    try:
        with connected(replicas[0].address) as first, connected(replicas[1].address) as second:
            player = Player(first, "r")
            for round in range(10):
                player.stub = (first, second)[round % 2]
                pull = player.select(round).pull
                player.stub = (second, first)[round % 2]
                player.report(round, pull.arm, 0.9)
            assert run_summary(first, "r") == run_summary(second, "r")
            replicas[0].kill()
            player.stub = second
            player.play(range(10, 20))
            rounds = [e.reward_reported.pull.round for e in history(second, "r") if e.HasField("reward_reported")]
        assert rounds == list(range(20))
    finally:
        for replica in replicas:
            replica.kill()


def test_a_frozen_store_is_unavailable_in_time_and_then_serves_again(redis: RedisServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", redis.url)
    try:
        with connected(server.address) as stub:
            player = Player(stub, "r")
            player.play(range(3))
            before = run_summary(stub, "r")
            process = psutil.Process(process_id(redis.url))
            process.suspend()
            for call in (lambda: player.select(3), lambda: run_summary(stub, "r"), lambda: player.select(0)):
                began = time.monotonic()
                with pytest.raises(grpc.RpcError) as caught:
                    call()
                assert isinstance(caught.value, grpc.Call)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
                assert time.monotonic() - began < 5, "sooner than a worker stops waiting"
            process.resume()
            eventually(lambda: served(lambda: run_summary(stub, "r")))
            after = run_summary(stub, "r")
            # The append in progress may have been stored; nothing else was.
            assert before.version <= after.version <= before.version + 1
            player.play(range(3, 6))
            assert run_summary(stub, "r").reports == 6
    finally:
        server.kill()


def test_a_killed_store_is_unavailable_until_it_is_back(redis: RedisServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", redis.url)
    try:
        with connected(server.address) as stub:
            player = Player(stub, "r")
            player.play(range(3))
            psutil.Process(process_id(redis.url)).kill()
            redis.wait()
            with pytest.raises(grpc.RpcError) as caught:
                player.select(3)
            assert isinstance(caught.value, grpc.Call)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            redis.start()
            eventually(lambda: served(lambda: run_summary(stub, "r")))
            player.play(range(3, 6))
            assert run_summary(stub, "r").reports == 6
    finally:
        server.kill()


def served(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True
