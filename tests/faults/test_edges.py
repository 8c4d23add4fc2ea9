"""The server's interface, on real processes: health, deadlines, pings, limits, metrics and logs."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from protos.optima.v1 import bandit_pb2 as pb
from tests.calls import Player, connected, history, told
from tests.launch import ROOT, free_port
from tests.server_process import ServerProcess, eventually
from tests.stores import RedisServer, process_id

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = ("", "optima.v1.Bandit")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def server(redis: RedisServer, tmp_path: Path) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path / "store", redis.url, dashboard=True)
    yield process
    process.kill()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with an embedded store, a metrics port, and a log of every call."""
    flags = ["--log-format", "json", "--log-level", "debug", "--metrics-port", str(free_port())]
    process = ServerProcess(tmp_path_factory.mktemp("alone") / "store", flags=flags, dashboard=True)
    yield process
    process.kill()


def refused(call: Callable[[], object]) -> grpc.Call:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return cast(grpc.Call, caught.value)


def test_health_follows_the_store_and_ends_with_the_server(redis: RedisServer, server: ServerProcess) -> None:
    store = psutil.Process(process_id(redis.url))
    with grpc.insecure_channel(server.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)

        def statuses() -> set[int]:
            requests = (health_pb2.HealthCheckRequest(service=service) for service in SERVICES)
            return {health.Check(request, timeout=10).status for request in requests}

        assert statuses() == {SERVING}
        store.suspend()
        eventually(lambda: statuses() == {NOT_SERVING})
        store.resume()
        eventually(lambda: statuses() == {SERVING})
        watching = health.Watch(health_pb2.HealthCheckRequest(), timeout=30)
        assert next(watching).status == SERVING
        psutil.Process(server.pid).send_signal(signal.SIGTERM)
        assert next(watching).status == NOT_SERVING, "reported before the connection ends"


def test_a_call_whose_deadline_has_passed_writes_nothing(redis: RedisServer, server: ServerProcess) -> None:
    with connected(server.address) as stub:
        players = [Player(stub, "r", worker=f"w{at}") for at in range(8)]
        before = told(stub, "r")
        store = psutil.Process(process_id(redis.url))
        store.suspend()
        codes: dict[str, grpc.StatusCode] = {}

        def late(player: Player, seconds: float) -> None:
            request = pb.SelectArmRequest(caller=player.caller, round=0)
            codes[player.caller.worker] = refused(lambda: stub.SelectArm(request, timeout=seconds)).code()

        def started() -> bool:
            url = f"http://127.0.0.1:{server.dashboard_port}/metrics"
            return (
                re.search(r'started_total{grpc_method="SelectArm".*} 1.0', httpx.get(url, timeout=20).text) is not None
            )

        try:
            first, *others = players
            calls = [threading.Thread(target=late, args=[first, 10.0])]
            calls[0].start()
            eventually(started)
            # They wait for the first one, which waits for the store.
            calls += [threading.Thread(target=late, args=[player, 0.2]) for player in others]
            for call in calls[1:]:
                call.start()
            for call in calls:
                call.join()
        finally:
            store.resume()
        assert codes.pop("w0") == grpc.StatusCode.UNAVAILABLE
        assert set(codes.values()) == {grpc.StatusCode.DEADLINE_EXCEEDED}
        eventually(lambda: answered(lambda: told(stub, "r")))
        # The first append was sent to the store, and may have arrived; the others were not sent.
        assert told(stub, "r").version <= before.version + 1


def test_a_call_that_arrives_after_its_deadline_is_refused_with_that_reason(server: ServerProcess) -> None:
    with connected(server.address) as stub:
        player = Player(stub, "late")

        def late(round: int) -> bool:
            before = told(stub, "late").version
            request = pb.SelectArmRequest(caller=player.caller, round=round)
            # gRPC rounds the time left up to a millisecond, in which the call may be executed, or even answered.
            try:
                stub.SelectArm(request, timeout=0)
            except grpc.RpcError as error:
                if "had passed when it arrived" not in str(cast(grpc.Call, error).details()):
                    return False
            else:
                return False
            assert told(stub, "late").version == before
            return True

        assert any(late(round) for round in range(50))


def answered(call: Callable[[], object]) -> bool:
    try:
        call()
    except grpc.RpcError:
        return False
    return True


def test_a_client_may_ping_without_calls_but_not_flood(alone: ServerProcess) -> None:
    host, port = alone.address.split(":")
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678"
    with socket.create_connection((host, int(port)), timeout=20) as patient:
        patient.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00")
        # At intervals below the 10 s of our own clients, and more pings than the server tolerates at shorter intervals.
        for _ in range(4):
            patient.sendall(ping)
            assert "ping" in frames(patient, until="ping")
            threading.Event().wait(5.2)
        patient.sendall(ping * 10)
        assert "goaway" in frames(patient, until="goaway")


def frames(connection: socket.socket, until: str) -> list[str]:
    """Read HTTP/2 frames up to the acknowledgement of a ping, or up to a goaway; return their kinds."""
    names = {6: "ping", 7: "goaway"}
    seen: list[str] = []
    while until not in seen:
        head = exactly(connection, 9)
        exactly(connection, int.from_bytes(head[:3], "big"))
        is_ping_request = head[3] == 6 and not head[4] & 1
        seen.append("other" if is_ping_request else names.get(head[3], "other"))
        assert until == "goaway" or seen[-1] != "goaway", "the server has ended the connection"
    return seen


def exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        assert chunk, "the server closed the connection without a goaway"
        data += chunk
    return data


def test_a_message_that_is_too_long_is_refused_in_a_sentence(alone: ServerProcess) -> None:
    with connected(alone.address) as stub:
        call = refused(lambda: stub.GetRun(pb.GetRunRequest(run="x" * (33 * 2**20)), timeout=30))
        assert call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in str(call.details())
        ten = refused(lambda: stub.GetRun(pb.GetRunRequest(run="x" * (10 * 2**20)), timeout=30))
        assert (ten.code(), "is not a valid name" in str(ten.details())) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_calls_are_counted_under_the_names_that_prometheus_users_know(alone: ServerProcess) -> None:
    with connected(alone.address) as stub:
        Player(stub, "counted-run", worker="counted-worker").play(range(3))
        refused(lambda: stub.GetRun(pb.GetRunRequest(run="nowhere-at-all")))
        history(stub, "counted-run")
    with grpc.insecure_channel(alone.address) as channel:
        invented: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/optima.v1.Bandit/Invented")
        refused(lambda: invented(b""))
    for url in (f"http://127.0.0.1:{alone.dashboard_port}/metrics", metrics_url(alone)):
        response = httpx.get(url, timeout=20)
        assert response.headers["content-type"].startswith("text/plain")
        metrics = response.text
        select = 'grpc_method="SelectArm",grpc_service="optima.v1.Bandit",grpc_type="unary"'
        for line in (
            f'grpc_server_handled_total{{grpc_code="OK",{select}}} 3.0',
            f"grpc_server_started_total{{{select}}} 3.0",
            f"grpc_server_handling_seconds_count{{{select}}} 3.0",
            'grpc_server_handled_total{grpc_code="NOT_FOUND",grpc_method="GetRun"',
            'optima_refusals_total{reason="run_not_found"}',
            "optima_events_total 8.0",
            "optima_store_up 1.0",
            "optima_store_call_seconds_count",
            "optima_build_info{version=",
            "process_resident_memory_bytes",
        ):
            assert line in metrics, line
        for word in ("counted-run", "counted-worker", "nowhere", "Invented"):
            assert word not in metrics, "a label must not have values that callers choose"


def metrics_url(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.flags[server.flags.index('--metrics-port') + 1]}/metrics"


def test_every_metric_is_documented(alone: ServerProcess) -> None:
    text = httpx.get(metrics_url(alone), timeout=20).text
    names = {name for name in re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE) if name.startswith(("optima", "grpc"))}
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert [name for name in names if not name.endswith("_created") and name not in page] == []


def test_each_line_of_the_log_has_the_calls_run_worker_and_round(alone: ServerProcess) -> None:
    odd = 'a\n{"level": "error"}'
    with connected(alone.address) as stub:
        Player(stub, "logged", worker="w7").play(range(2))
        refused(lambda: stub.GetRun(pb.GetRunRequest(run=odd)))
    log = alone.data.parent / "server.log"

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]

    eventually(lambda: any(line.get("run") == odd for line in lines()))
    logged = [line for line in lines() if line.get("run") == "logged"]
    assert {line["message"] for line in logged} >= {"CreateRun", "SelectArm", "ReportReward"}
    select = next(line for line in logged if line["message"] == "SelectArm" and line["round"] == 1)
    assert (select["worker"], select["code"], select["level"]) == ("w7", "OK", "debug")
    assert time.strptime(select["time"][:19], "%Y-%m-%dT%H:%M:%S")
    bad = next(line for line in lines() if line.get("run") == odd)
    assert (bad["code"], bad["reason"]) == ("INVALID_ARGUMENT", "invalid")


def test_a_password_on_the_command_line_is_refused_and_not_repeated() -> None:
    command = [sys.executable, "-m", "bandit_server.cli", "serve", "--redis-url", "redis://:hunter2@127.0.0.1:1/0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "OPTIMA_REDIS_URL" in done.stderr
    assert "hunter2" not in done.stderr
