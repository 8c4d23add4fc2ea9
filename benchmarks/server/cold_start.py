"""A server that starts among many long runs which it has never seen, and what they cost it while they are idle."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from bandit_server.replica.runs import IDLE_SECONDS
from benchmarks.server import histories
from benchmarks.server.players import SPEC
from benchmarks.server.site import Process, Site, channel, ready
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

RUNS = 1000
EVENTS = 1000
DATABASE = 1
# Seconds for a server to have kept what it keeps of a run, and after an idle time to have let go of it.
SLACK = 5.0
TOGETHER = 16
ASKED_AT_ONCE = 4


@dataclass
class ColdStart:
    """What was seen of the server; it goes on running.

    Attributes:
        told: For JSON.
        before: Bytes it held when it had listed all runs.
        since: When its runs began to be idle, by the monotonic clock.
    """

    server: Process
    told: dict[str, float]
    before: int
    since: float


def cold_start(site: Site) -> ColdStart:
    """Many copies of a run that a server has played, in a database of their own, and a new server there, which is then
    asked for each of them."""
    _played(site, "template", (EVENTS - 2) // 2)
    names = histories.multiply(site.redis, "template", RUNS, DATABASE)
    began = time.perf_counter()
    server = site.ours(DATABASE)
    ready(server)
    up = time.perf_counter()
    with channel(server.address) as to, ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        stub = BanditStub(to)
        select_seconds = _first_select(stub, names[RUNS // 2])
        # What first calls take, and connections to the store, no further run takes again.
        _at_once(stub)
        unlisted = server.resident
        start = time.perf_counter()
        listed = _list_all(stub)
        list_seconds = time.perf_counter() - start
        assert len(listed) == RUNS
        assert all(run.version >= EVENTS for run in listed)
        before = server.resident
        start = time.perf_counter()
        list(pool.map(stub.GetRun, [pb.GetRunRequest(run=name) for name in names]))
        load_seconds = (time.perf_counter() - start) / RUNS
    told = {
        "start_seconds": up - began,
        "select_seconds": select_seconds,
        "list_seconds": list_seconds,
        "load_run_seconds": load_seconds,
        "listed_kb_per_run": (before - unlisted) / RUNS / 1000,
        "busy_kb_per_run": (server.resident - before) / RUNS / 1000,
    }
    return ColdStart(server, told, before, time.monotonic())


def _played(site: Site, run: str, rounds: int) -> None:
    """A run that a server has played."""
    server = site.ours()
    ready(server)
    histories.write(site.redis, run, rounds, "w")
    with channel(server.address) as to:
        stub = BanditStub(to)
        # Whoever asks makes it known to the server, which keeps a snapshot of it then.
        stub.GetRun(pb.GetRunRequest(run=run))
        deadline = time.monotonic() + SLACK
        while not site.redis.exists(f"optima:{{{run}}}:snapshot") and time.monotonic() < deadline:
            time.sleep(0.02)
    server.stop()


def idle_memory(cold: ColdStart) -> dict[str, float]:
    """What the runs that it had at hand in a cold start cost the server when it has let go of them."""
    while time.monotonic() < cold.since + IDLE_SECONDS + SLACK:
        time.sleep(0.1)
    held = (cold.server.resident - cold.before) / RUNS / 1000
    return {"kb_per_idle_run": cold.told["listed_kb_per_run"] + held}


def _first_select(stub: BanditStub, run: str) -> float:
    """A worker's first call and its first choice."""
    start = time.perf_counter()
    caller = pb.Caller(run=run, worker="new", process="p")
    told = stub.CreateRun(pb.CreateRunRequest(caller=caller, spec=SPEC)).run
    caller.incarnation, caller.seen_version = told.incarnation, told.version
    stub.SelectArm(pb.SelectArmRequest(caller=caller, round=0))
    return time.perf_counter() - start


def _at_once(stub: BanditStub) -> None:
    """Calls that are under way together, about runs that are not there."""
    for call in [stub.GetRun.future(pb.GetRunRequest(run=f"none-{at}")) for at in range(TOGETHER)]:
        call.exception()


def _list_all(stub: BanditStub) -> list[Any]:
    """Every run."""
    runs: list[Any] = []
    token = ""
    while True:
        try:
            page = stub.ListRuns(pb.ListRunsRequest(page_token=token))
        except grpc.RpcError as error:
            # Asked again, as whoever wants it would; it takes all the longer.
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            continue
        runs += page.runs
        token = page.next_page_token
        if not token:
            return runs
