"""Generated histories, so that a benchmark need not wait for workers to play them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import redis

from bandit_server.store import keys
from benchmarks.server.load_workers import SPEC
from protos.optima.v1 import bandit_pb2 as pb

FALLBACK_ARMS = [SPEC.arms[at % 3].name for at in range(64)]
EVENTS_PER_BATCH = 1000


def write(store: redis.Redis, run: str, rounds: int, worker: str) -> None:
    """Write a run with a generated history to Redis."""
    pipe = store.pipeline(transaction=False)
    pipe.zadd(keys.RUNS, {run: time.time()})
    pipe.set(keys.head(run), "made")
    for version, event in enumerate(history(rounds, worker), 1):
        pipe.xadd(keys.events(run), {"e": event.SerializeToString()}, id=f"{version}-0")
        if version % EVENTS_PER_BATCH == 0:
            pipe.execute()
    pipe.execute()


def history(rounds: int, worker: str) -> Iterator[pb.Event]:
    """Yield the events of a run with one worker (process `p`): two at the beginning, and two for each round."""
    now = time.time()
    started = pb.WorkerStarted(worker=worker, process="p", info=pb.WorkerInfo(ranks=1, device="cpu"))
    yield pb.Event(schema=1, time=now, run_created=pb.RunCreated(spec=SPEC, incarnation="made"))
    yield pb.Event(schema=1, time=now, worker_started=started)
    for round in range(rounds):
        yield from _round(round, worker, now)


def multiply(store: redis.Redis, run: str, count: int, db: int) -> list[str]:
    """Copy all keys of a run to another database, `count` times, and return the names of the copies."""
    names = [f"{run}-{number}" for number in range(count)]
    keys_of_run = [key.decode() for key in store.scan_iter(match=f"optima:{{{run}}}:*", count=1000)]
    pipe: Any = store.pipeline(transaction=False)
    for index, name in enumerate(names):
        for key in keys_of_run:
            pipe.execute_command("COPY", key, key.replace(f"{{{run}}}", f"{{{name}}}"), "DB", db)
        if index % 100 == 99:
            pipe.execute()
    pipe.execute_command("SELECT", db)
    pipe.zadd(keys.RUNS, {name: time.time() for name in names})
    pipe.execute_command("SELECT", 0)
    pipe.execute()
    return names


def _round(round: int, worker: str, now: float) -> list[pb.Event]:
    arm = FALLBACK_ARMS[round % 64]
    pull = pb.Pull(number=round, worker=worker, round=round, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY)
    reward = {"image": 0.03, "text": 0.02, "decoder": 0.01}[arm] / (1 + round % 1000 / 100)
    measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=1 - reward, steps=10, seconds=1.0,
                              terms={"image": 1 - reward, "text": 0.5, "decoder": 0.3, "task": 0.2})  # fmt: skip
    report = pb.RewardReported(pull=pull, measurement=measured, reward=1.0 - measured.after)
    pulled = pb.ArmPulled(pull=pull, fallback_arms=FALLBACK_ARMS)
    return [pb.Event(schema=1, time=now, arm_pulled=pulled), pb.Event(schema=1, time=now, reward_reported=report)]
