"""Several replicas behind the load balancer of deploy/: a real nginx with the shipped configuration."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from bandit_server.config import Settings
from bandit_server.server import Server
from protos.optima.v1 import bandit_pb2 as pb
from tests.calls import Player, connected, history, run_summary
from tests.launch import ROOT, free_port
from tests.server_process import eventually
from tests.stores import redis_server

CONFIGURATION = ROOT / "deploy" / "nginx.conf"
UPSTREAM = "server bandit-server:50051 "


@contextlib.contextmanager
def nginx(directory: Path, *replicas: str) -> Iterator[str]:
    """Run the balancer in front of some replicas, and yield its address.

    In Compose one name resolves to all replicas; here each gets a line of its own.
    """
    port = free_port()
    text = CONFIGURATION.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if UPSTREAM in line)
    text = text.replace(line, "\n".join(line.replace("bandit-server:50051", replica) for replica in replicas))
    text = text.replace("listen 50051", f"listen 127.0.0.1:{port}").replace("/tmp/", f"{directory}/")
    file = directory / "nginx.conf"
    file.write_text(text, encoding="utf-8")
    checked = subprocess.run(["nginx", "-t", "-q", "-c", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
    with (directory / "nginx.log").open("w") as log:
        process = subprocess.Popen(["nginx", "-c", str(file), "-g", "daemon off;"], stderr=log)
    try:
        eventually(lambda: listens(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def replica(url: str) -> Server:
    return Server(Settings(port=0, dashboard_port=None, redis_url=url))


def test_a_run_goes_on_behind_the_balancer_when_a_replica_goes(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server(tmp_path / "redis"))
        one, two = stack.enter_context(replica(url)), stack.enter_context(replica(url))
        stub = stack.enter_context(connected(stack.enter_context(nginx(tmp_path, one.address, two.address))))
        player = Player(stub, "r")
        watching = stub.WatchRun(pb.WatchRunRequest(run="r"), timeout=60)
        assert next(watching).run.version == 2
        player.play(range(10))
        seen = 2
        while seen < 22:
            seen = next(watching).run.version
        watching.cancel()
        one.stop()
        # Callers retry the calls that were in progress there; new calls go to the other replica.
        player.play(range(10, 20))
        rounds = [e.reward_reported.pull.round for e in history(stub, "r") if e.HasField("reward_reported")]
        assert rounds == list(range(20))
        two.stop()
        with pytest.raises(grpc.RpcError) as caught:
            run_summary(stub, "r")
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE, "a code on which the worker retries"


def test_a_refusal_comes_through_the_balancer_whole(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(replica(stack.enter_context(redis_server(tmp_path / "redis"))))
        stub = stack.enter_context(connected(stack.enter_context(nginx(tmp_path, one.address))))
        player = Player(stub, "r")
        arm = player.select(0).pull.arm
        player.report(0, arm, 0.75)
        with pytest.raises(grpc.RpcError) as caught:
            player.report(0, arm, 0.5)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
        assert "optima-stored-report-bin" in dict(caught.value.trailing_metadata() or ())


class Compose(yaml.SafeLoader):
    """Loads YAML with Compose's own tags: a value with !reset is None."""


Compose.add_constructor("!reset", lambda loader, node: None)


def test_the_override_puts_two_replicas_behind_the_address_of_one() -> None:
    base: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    over: dict[str, Any] = yaml.load((ROOT / "deploy" / "replicas.yml").read_text(encoding="utf-8"), Compose)[
        "services"
    ]
    assert over["bandit-server"] == {"ports": None, "deploy": {"replicas": 2}}
    balancer = over["balancer"]
    assert balancer["ports"] == base["bandit-server"]["ports"]
    assert balancer["volumes"] == ["./deploy/nginx.conf:/etc/optima/nginx.conf:ro"]
    assert UPSTREAM in CONFIGURATION.read_text(encoding="utf-8")
    # As restricted as every other container.
    for setting in ("read_only", "tmpfs", "cap_drop", "security_opt", "init", "stop_signal", "logging"):
        assert balancer[setting] == base["redis"][setting]
    assert over["dashboard"]["command"][2] == "balancer:50051"
