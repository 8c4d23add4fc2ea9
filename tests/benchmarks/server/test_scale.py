"""The needs of many workers, from the costs of one round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.server.scale import TARGET_UTILIZATION, Costs, Work, Workers, calls, needs, replicas

COSTS = Costs(idle=Work(0.01, 0.002), round=Work(0.002, 0.0002), heartbeat=Work(0.001, 0.0001), round_bytes=700,
              run_bytes=20_000)  # fmt: skip
WORKERS = Workers(count=3000, runs=100, round_seconds=30, heartbeat_seconds=3, rounds=1000)


def test_calls_are_rounds_and_heartbeats() -> None:
    work = calls(COSTS, WORKERS)
    assert work.server == pytest.approx(100 * 0.002 + 1000 * 0.001)
    assert work.redis == pytest.approx(100 * 0.0002 + 1000 * 0.0001)


def test_every_replica_has_room_left_and_none_is_there_in_vain() -> None:
    for count in (1, 1000, 3000, 100_000):
        workers = replace(WORKERS, count=count)
        carry = replicas(COSTS, workers)
        each = calls(COSTS, workers).server / carry + COSTS.idle.server
        assert each <= TARGET_UTILIZATION
        if carry > 1:
            assert calls(COSTS, workers).server / (carry - 1) + COSTS.idle.server > TARGET_UTILIZATION


def test_ten_times_the_workers_need_ten_times_as_much_of_redis() -> None:
    one, ten = needs(COSTS, WORKERS), needs(COSTS, replace(WORKERS, count=30_000, runs=1000))
    assert ten["redis_gb"] == pytest.approx(10 * one["redis_gb"])
    assert one["redis_gb"] == pytest.approx((3000 * 1000 * 700 + 100 * 20_000) / 1e9)
    idle = COSTS.idle.redis
    busy = [needed["redis_cores"] - needed["replicas"] * idle for needed in (one, ten)]
    assert busy[1] == pytest.approx(10 * busy[0])
