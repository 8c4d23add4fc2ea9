"""The start of a server among many long runs that it has never loaded, and the memory of those runs while idle."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc

from bandit_server.replica.runs import IDLE_SECONDS
from benchmarks.server import histories
from benchmarks.server.load_workers import SPEC
from benchmarks.server.testbed import Process, Testbed, channel, wait_until_ready
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub

RUNS = 1000
EVENTS = 1000
DATABASE = 1
# Seconds that a server may take to store a run's snapshot, and to release an idle run after its idle time.
SLACK = 5.0
WARM_UP_CALLS = 16
PARALLEL_CALLS = 4


@dataclass
class ColdStart:
    """The measurements of a cold start. The server goes on running.

    Attributes:
        server: The process of the server.
        results: The measurements, for JSON.
        before: The memory of the server after it listed all runs, in bytes.
        since: When its runs became idle, by the monotonic clock.
    """

    server: Process
    results: dict[str, float]
    before: int
    since: float


def cold_start(testbed: Testbed) -> ColdStart:
    """Start a server on a database with many copies of a run, and load each of them."""
    _write_run_with_snapshot(testbed, "template", (EVENTS - 2) // 2)
    names = histories.multiply(testbed.redis, "template", RUNS, DATABASE)
    began = time.perf_counter()
    server = testbed.start_server(DATABASE)
    wait_until_ready(server)
    up = time.perf_counter()
    with channel(server.address) as to, ThreadPoolExecutor(PARALLEL_CALLS) as pool:
        stub = BanditStub(to)
        select_seconds = _first_select(stub, names[RUNS // 2])
        # The memory of first calls and of connections to the store does not grow with further runs.
        _warm_up(stub)
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
    results = {
        "start_seconds": up - began,
        "select_seconds": select_seconds,
        "list_seconds": list_seconds,
        "load_run_seconds": load_seconds,
        "listed_kb_per_run": (before - unlisted) / RUNS / 1000,
        "busy_kb_per_run": (server.resident - before) / RUNS / 1000,
    }
    return ColdStart(server, results, before, time.monotonic())


def _write_run_with_snapshot(testbed: Testbed, run: str, rounds: int) -> None:
    """Write a run, and wait until a server has stored its snapshot."""
    server = testbed.start_server()
    wait_until_ready(server)
    histories.write(testbed.redis, run, rounds, "w")
    with channel(server.address) as to:
        stub = BanditStub(to)
        # The call makes the server load the run and store its snapshot.
        stub.GetRun(pb.GetRunRequest(run=run))
        deadline = time.monotonic() + SLACK
        while not testbed.redis.exists(f"optima:{{{run}}}:snapshot") and time.monotonic() < deadline:
            time.sleep(0.02)
    server.stop()


def idle_memory(cold: ColdStart) -> dict[str, float]:
    """Return the server's memory for each run of a cold start after it has released the idle runs."""
    while time.monotonic() < cold.since + IDLE_SECONDS + SLACK:
        time.sleep(0.1)
    held = (cold.server.resident - cold.before) / RUNS / 1000
    return {"kb_per_idle_run": cold.results["listed_kb_per_run"] + held}


def _first_select(stub: BanditStub, run: str) -> float:
    """Return the seconds of a worker's first call and its first choice."""
    start = time.perf_counter()
    caller = pb.Caller(run=run, worker="new", process="p")
    summary = stub.CreateRun(pb.CreateRunRequest(caller=caller, spec=SPEC)).run
    caller.incarnation, caller.seen_version = summary.incarnation, summary.version
    stub.SelectArm(pb.SelectArmRequest(caller=caller, round=0))
    return time.perf_counter() - start


def _warm_up(stub: BanditStub) -> None:
    """Make parallel calls for runs that do not exist."""
    for call in [stub.GetRun.future(pb.GetRunRequest(run=f"none-{at}")) for at in range(WARM_UP_CALLS)]:
        call.exception()


def _list_all(stub: BanditStub) -> list[Any]:
    """List every run."""
    runs: list[Any] = []
    token = ""
    while True:
        try:
            page = stub.ListRuns(pb.ListRunsRequest(page_token=token))
        except grpc.RpcError as error:
            # Retry, as a user would; the time counts.
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            continue
        runs += page.runs
        token = page.next_page_token
        if not token:
            return runs
