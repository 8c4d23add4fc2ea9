"""The resources that many workers need, computed from the cost of one round and one heartbeat.

This is arithmetic only; benchmarks/server/scale_model.py measures the costs, and checks the result against workers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The part of its core that a replica, one process, uses on average; the rest is for peaks.
TARGET_UTILIZATION = 0.6


@dataclass(frozen=True)
class Work:
    """Processor time in seconds.

    Attributes:
        server: Of the bandit server, all replicas together.
        redis: Of Redis.
    """

    server: float
    redis: float

    def __add__(self, other: Work) -> Work:
        return Work(self.server + other.server, self.redis + other.redis)

    def __mul__(self, times: float) -> Work:
        return Work(self.server * times, self.redis * times)


@dataclass(frozen=True)
class Costs:
    """The measured costs.

    Attributes:
        idle: The work of an idle replica in one second.
        round: The work of a worker's round: a report and the next selection.
        heartbeat: The work of a heartbeat.
        round_bytes: The bytes that Redis stores for a round.
        run_bytes: The bytes that Redis stores for a run besides its rounds: its snapshot.
    """

    idle: Work
    round: Work
    heartbeat: Work
    round_bytes: float
    run_bytes: float


@dataclass(frozen=True)
class Workers:
    """A number of workers and their pace.

    Attributes:
        count: The number of workers.
        runs: The number of runs that they share.
        round_seconds: The duration of a round.
        heartbeat_seconds: The time between two heartbeats of a worker.
        rounds: The number of stored rounds of each worker.
    """

    count: int
    runs: int
    round_seconds: float
    heartbeat_seconds: float
    rounds: int

    @property
    def rounds_per_second(self) -> float:
        """The rounds of all workers in a second."""
        return self.count / self.round_seconds

    @property
    def heartbeats_per_second(self) -> float:
        """The heartbeats of all workers in a second."""
        return self.count / self.heartbeat_seconds


def calls(costs: Costs, workers: Workers) -> Work:
    """Return the work of the workers' calls in one second."""
    return costs.round * workers.rounds_per_second + costs.heartbeat * workers.heartbeats_per_second


def replicas(costs: Costs, workers: Workers) -> int:
    """Return the number of replicas that the workers need; at least one."""
    return max(1, math.ceil(calls(costs, workers).server / (TARGET_UTILIZATION - costs.idle.server)))


def needs(costs: Costs, workers: Workers) -> dict[str, float]:
    """Return all resources that the workers need, for JSON."""
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
