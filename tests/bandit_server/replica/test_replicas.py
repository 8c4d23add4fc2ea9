"""Several servers on one Redis: what one appends the others see; and the keys suit a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from bandit_server.config import Settings
from bandit_server.server import Server
from bandit_server.store import keys
from bandit_server.store.base import Head
from bandit_server.store.redis_store import RedisStore
from protos.optima.v1 import bandit_pb2 as pb
from tests.calls import Player, connected, history, run_summary
from tests.stores import RedisServer

WORKERS = ("one", "two", "three")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


def replica(url: str) -> Server:
    """A server that is configured with the store's address only."""
    return Server(Settings(port=0, dashboard_port=None, redis_url=url))


def test_a_watcher_sees_what_is_written_through_another_replica_within_a_second(redis: RedisServer) -> None:
    with (
        replica(redis.url) as one,
        replica(redis.url) as two,
        connected(one.address) as writing,
        connected(two.address) as reading,
    ):
        player = Player(writing, "r")
        watching = reading.WatchRun(pb.WatchRunRequest(run="r"), timeout=60)
        seen = next(watching).run.version
        for round in range(5):
            answer = player.select(round)
            written = time.monotonic()
            while seen < answer.version:
                seen = next(watching).run.version
            assert time.monotonic() - written < 1.0
            player.report(round, answer.pull.arm, 0.9)
        watching.cancel()


def test_rounds_of_many_workers_through_three_replicas_are_one_history(redis: RedisServer) -> None:
    with contextlib.ExitStack() as stack:
        stubs = [stack.enter_context(connected(stack.enter_context(replica(redis.url)).address)) for _ in range(3)]
        players = [Player(stubs[0], "r", worker=name) for name in WORKERS]
        for round in range(12):
            for at, player in enumerate(players):
                player.stub = stubs[(round + at) % 3]
                arm = player.select(round).pull.arm
                player.stub = stubs[(round + at + 1) % 3]
                player.report(round, arm, 0.9)
        assert run_summary(stubs[0], "r") == run_summary(stubs[1], "r") == run_summary(stubs[2], "r")
        events = history(stubs[2], "r")
        numbers = [event.arm_pulled.pull.number for event in events if event.HasField("arm_pulled")]
        assert numbers == list(range(3 * 12))


@pytest.mark.parametrize("run", ["demo", "r.1", "-", "a" * 64, "UPPER_lower-0.9"])
def test_all_keys_of_a_run_share_one_slot_of_a_cluster(run: str) -> None:
    ours = [
        keys.events(run),
        keys.head(run),
        keys.tombstone(run),
        keys.heartbeat(run, "w"),
        keys.heartbeat(run, "other"),
    ]
    assert {key_slot(key.encode()) for key in ours} == {key_slot(run.encode())}


def test_a_cluster_lets_the_store_append_read_and_delete(tmp_path: Path) -> None:
    """A node in cluster mode refuses commands on two slots at once."""
    server = RedisServer(tmp_path / "redis", **{"cluster-enabled": "yes", "cluster-config-file": "nodes.conf"})

    async def scenario() -> None:
        store = RedisStore(server.url, deadline=30)
        try:
            for run in ("r", "s"):
                await store.register(run, 1.0)
                assert await store.append(run, Head(0, "", False), [b"1"], incarnation="one", worker="w") == "stored"
                assert await store.append(run, Head(1, "one", False), [b"2", b"3"], worker="w") == "stored"
                assert (await store.read(run, 0, 10)).events == [(1, b"1"), (2, b"2"), (3, b"3")]
                await store.record_heartbeat(run, "w", b"alive")
            await store.delete("r")
            assert (await store.read("r", 0, 10)).head.deleted
            assert [name for _, name in await store.names(10)] == ["s"]
        finally:
            await store.close()

    try:
        server.start()
        server.own_all_slots()
        asyncio.run(scenario())
    finally:
        server.stop()
