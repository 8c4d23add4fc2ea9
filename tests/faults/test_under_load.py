"""Server, store and network fail while workers play: every reported reward is stored once, and play continues.

The time to recover is printed (``pytest -s``).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.server.load import Load, Observer, Reports, count_outcomes
from benchmarks.server.load_workers import RUN
from tests.benchmarks.command import benchmark
from tests.network import Network
from tests.server_process import ServerProcess, eventually
from tests.stores import RedisServer, connected


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", fsync="everysec")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def networks() -> Iterator[list[Network]]:
    laid: list[Network] = []
    yield laid
    for network in laid:
        network.close()


def assert_each_is_stored_once(reports: Reports, observer: Observer) -> None:
    counts = count_outcomes(reports, observer.events())
    assert counts["reports"] > 0
    assert (counts["lost"], counts["doubled"], counts["other"], counts["numbers"]) == (0, 0, 0, 0), counts


def unavailable(observer: Observer) -> Callable[[], bool]:
    return lambda: observer.version() is None


def played(server: ServerProcess, reports: int = 20) -> None:
    """Wait until the workers have reported so many more rounds."""
    eventually(lambda: RUN in server.names(), seconds=60)
    before = server.run(RUN).reports
    eventually(lambda: server.run(RUN).reports >= before + reports, seconds=60)


def recovered(observer: Observer, from_what: str, *cures: Callable[[], object]) -> None:
    """End the failure, and print the seconds until rewards are stored again."""
    start = time.monotonic()
    for cure in cures:
        cure()
    observer.wait_for_progress()
    print(f"{from_what}: rewards are stored again {time.monotonic() - start:.2f} s after its end")


@pytest.mark.timeout(300)
def test_a_server_killed_again_and_again_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "kills.json"
    print(benchmark("server.kills", "--kills", "5", "--json", str(path)))
    result = json.loads(path.read_text(encoding="utf-8"))
    assert (result["kills"], len(result["answer_seconds"]), len(result["recovery_seconds"])) == (5, 5, 5)
    assert result["reports"] > 0
    assert (result["lost"], result["doubled"], result["other"], result["numbers"]) == (0, 0, 0, 0)


@pytest.mark.timeout(300)
def test_store_and_network_fail_and_nothing_is_lost_or_doubled(
    redis: RedisServer, networks: list[Network], tmp_path: Path
) -> None:
    to_store = Network(redis.url)
    networks.append(to_store)
    server = ServerProcess(tmp_path / "store", f"redis://{to_store.address}/0")
    to_server = Network(server.address)
    networks.append(to_server)
    observer = Observer(server.address)
    try:
        with Load(to_server.address, tmp_path, workers=3) as load:
            load.go()
            played(server)

            redis.kill()
            eventually(unavailable(observer))
            recovered(observer, "the store was killed", redis.start)
            assert_each_is_stored_once(load.pause(), observer)

            load.go()
            redis.freeze()
            eventually(unavailable(observer))
            recovered(observer, "the store was frozen", redis.thaw)
            assert_each_is_stored_once(load.pause(), observer)

            load.go()
            to_store.part()
            eventually(unavailable(observer))
            recovered(observer, "server and store were parted", to_store.heal)
            assert_each_is_stored_once(load.pause(), observer)

            load.go()
            played(server)
            to_server.part()
            # Each worker's patience has run out, and it plays on without the server.
            eventually(lambda: not stored_meanwhile(observer), seconds=30)
            recovered(observer, "workers and server were parted", to_server.heal)
            assert_each_is_stored_once(load.pause(), observer)

            load.go()
            server.kill()
            redis.kill()
            recovered(observer, "server and store were killed together", redis.start, server.start)
            assert_each_is_stored_once(load.pause(), observer)
            assert count_outcomes({}, observer.events())["by_the_worker"] > 0, "they played on meanwhile"
    finally:
        observer.close()
        server.kill()


@pytest.mark.timeout(300)
def test_a_store_that_loses_history_is_noticed_and_restored(redis: RedisServer, tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store", redis.url)
    observer = Observer(server.address)
    try:
        with Load(server.address, tmp_path, workers=3) as load:
            load.go()
            played(server)
            assert not server.run(RUN).restored
            incarnations = {server.run(RUN).incarnation}

            with connected(redis.url) as client:
                recovered(observer, "the store was emptied", client.flushall)
            assert_each_is_stored_once(load.pause(), observer)
            incarnations.add(server.run(RUN).incarnation)

            backup = tmp_path / "backup"
            shutil.copytree(redis.directory, backup)
            load.go()
            played(server)
            redis.kill()
            shutil.rmtree(redis.directory)
            shutil.copytree(backup, redis.directory)
            recovered(observer, "the store was rolled back", redis.start)
            assert_each_is_stored_once(load.pause(), observer)
            incarnations.add(server.run(RUN).incarnation)
            assert len(incarnations) == 3, "each loss has started a new incarnation"
            assert server.run(RUN).restored
    finally:
        observer.close()
        server.kill()


@pytest.mark.timeout(300)
def test_one_of_two_replicas_is_killed_and_the_other_serves_on(redis: RedisServer, tmp_path: Path) -> None:
    replicas = [ServerProcess(tmp_path / name, redis.url) for name in ("a", "b")]
    one, two = (replica.address for replica in replicas)
    observers = [Observer(one), Observer(two)]
    try:
        # Each worker knows both replicas, half of the workers in the other order.
        with Load(f"ipv4:{one},{two}", tmp_path, 2, "a") as load, Load(f"ipv4:{two},{one}", tmp_path, 2, "b") as other:
            load.go()
            other.go()
            for replica, left in ((replicas[0], observers[1]), (replicas[1], observers[0])):
                left.wait_for_progress()
                recovered(left, "one of two replicas was killed", replica.kill)
                replica.start()
            reported = {**load.pause(), **other.pause()}
            for observer in observers:
                assert_each_is_stored_once(reported, observer)
            assert observers[0].events() == observers[1].events()
    finally:
        for observer in observers:
            observer.close()
        for replica in replicas:
            replica.kill()


def stored_meanwhile(observer: Observer) -> bool:
    """Return whether new events are stored within a second."""
    try:
        observer.wait_for_progress(1.0)
    except TimeoutError:
        return False
    return True
