"""What a further idle run costs a server: the slope between two servers that have let go of fewer and of more runs.

What a server holds beside that, whatever the number of its runs, is in neither: itself, and memory that Python has free
but cannot give back.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bandit_server.runs import IDLE_SECONDS
from benchmarks import histories
from benchmarks.cold_start import SLACK, list_all, played
from benchmarks.site import Process, Site, channel, ready
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

# How many runs each server has had at hand, and where they are.
RUNS = {500: 3, 1500: 4}
ASKED_AT_ONCE = 4
# A state is as large after these as after any number of further ones.
ROUNDS = 100


@dataclass
class IdleRuns:
    """Servers, by how many runs each has had at hand; `since`: from when on these are idle, by the monotonic clock."""

    servers: dict[int, Process]
    since: float


def idle_runs(site: Site) -> IdleRuns:
    """Servers that list so many runs that were played, and are asked for each of them once."""
    played(site, "idle", ROUNDS)
    servers = {}
    for count, database in RUNS.items():
        names = histories.multiply(site.redis, "idle", count, database)
        server = servers[count] = site.ours(database)
        ready(server)
        with channel(server.address) as to, ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            stub = BanditStub(to)
            list(pool.map(stub.GetRun, [pb.GetRunRequest(run=name) for name in names]))
            assert len(list_all(stub)) == count
    return IdleRuns(servers, time.monotonic())


def slope(idle: IdleRuns) -> dict[str, float]:
    """Kilobytes for each further run, once the servers have let go of all of them."""
    while time.monotonic() < idle.since + IDLE_SECONDS + SLACK:
        time.sleep(0.1)
    (few, held_by_few), (many, held_by_many) = sorted((n, server.resident) for n, server in idle.servers.items())
    return {"kb_per_further_idle_run": (held_by_many - held_by_few) / (many - few) / 1000}
