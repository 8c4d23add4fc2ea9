"""The arithmetic of how much many workers need: processor time and memory, from what one round and one heartbeat cost.

No measurement here; benchmarks/server/scale_model.py measures, and checks this against workers over real calls.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# A replica is one process on one core, of which so much is to be used: the rest is for what comes unevenly.
USED = 0.6


@dataclass(frozen=True)
class Work:
    """Seconds of processor time: of the bandit server, of all its replicas together, and of Redis."""

    server: float
    redis: float

    def __add__(self, other: Work) -> Work:
        return Work(self.server + other.server, self.redis + other.redis)

    def __mul__(self, times: float) -> Work:
        return Work(self.server * times, self.redis * times)


@dataclass(frozen=True)
class Costs:
    """What was measured.

    Attributes:
        idle: Of one second of a replica that nobody calls.
        round: Of a worker's round: a report and the next selection.
        heartbeat: Of a heartbeat.
        round_bytes: That Redis keeps of a round.
        run_bytes: That Redis keeps of a run besides its rounds: its snapshot.
    """

    idle: Work
    round: Work
    heartbeat: Work
    round_bytes: float
    run_bytes: float


@dataclass(frozen=True)
class Workers:
    """Who calls.

    Attributes:
        count: How many workers.
        runs: How many runs they share.
        round_seconds: How long a round lasts.
        heartbeat_seconds: How often each of them shows that it is alive.
        rounds: Rounds of each worker that are kept.
    """

    count: int
    runs: int
    round_seconds: float
    heartbeat_seconds: float
    rounds: int

    @property
    def rounds_per_second(self) -> float:
        """Of all of them."""
        return self.count / self.round_seconds

    @property
    def heartbeats_per_second(self) -> float:
        """Of all of them."""
        return self.count / self.heartbeat_seconds


def calls(costs: Costs, workers: Workers) -> Work:
    """What the workers' calls of one second take."""
    return costs.round * workers.rounds_per_second + costs.heartbeat * workers.heartbeats_per_second


def replicas(costs: Costs, workers: Workers) -> int:
    """How many replicas carry them; at least one."""
    return max(1, math.ceil(calls(costs, workers).server / (USED - costs.idle.server)))


def needs(costs: Costs, workers: Workers) -> dict[str, float]:
    """All that they need, for JSON."""
    count = replicas(costs, workers)
    each_second = calls(costs, workers) + costs.idle * count
    return {
        "workers": workers.count,
        "runs": workers.runs,
        "rounds_per_second": workers.rounds_per_second,
        "heartbeats_per_second": workers.heartbeats_per_second,
        "replicas": count,
        "server_cores": each_second.server,
        "redis_cores": each_second.redis,
        "redis_gb": (workers.count * workers.rounds * costs.round_bytes + workers.runs * costs.run_bytes) / 1e9,
    }
