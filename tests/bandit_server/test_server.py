"""The server: its ports, who is answered, and errors at the start."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandit_server import config
from bandit_server.config import Settings
from bandit_server.errors import StartError
from bandit_server.server import Server
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import Player, connected, told
from tests.stores import redis_server


def settings(data_dir: Path, **fields: object) -> Settings:
    return Settings(**{"port": 0, "dashboard_port": None, "data_dir": data_dir, **fields})  # type: ignore[arg-type]


def test_state_is_the_same_after_a_restart(tmp_path: Path) -> None:
    with Server(settings(tmp_path)) as server, connected(server.address) as stub:
        Player(stub, "r").play(range(20))
        before = told(stub, "r")
    with Server(settings(tmp_path)) as server, connected(server.address) as stub:
        assert told(stub, "r") == before
        again = Player(stub, "r", process="later")
        assert (again.joined.created, again.joined.next_round) == (False, 20)


def test_it_works_with_a_separate_store(tmp_path: Path) -> None:
    with redis_server(tmp_path / "redis") as url:
        for process in ("one", "two"):
            with Server(settings(tmp_path, redis_url=url)) as server, connected(server.address) as stub:
                first = Player(stub, "r", process=process).joined.next_round
                Player(stub, "r", process=process).play(range(first, first + 3))
                assert told(stub, "r").reports == first + 3
    assert not (tmp_path / "server.lock").exists()


def test_it_serves_the_dashboard(tmp_path: Path) -> None:
    with Server(settings(tmp_path, dashboard_port=0)) as server, connected(server.address) as stub:
        Player(stub, "r").play(range(3))
        assert httpx.get(f"{server.dashboard_url}/api/runs/r").json()["status"]["state"] == "live"


@pytest.mark.parametrize("flag", ["--port", "--dashboard-port"])
def test_a_taken_port_names_its_flag(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = {flag.removeprefix("--").replace("-", "_"): other.getsockname()[1]}
        with pytest.raises(StartError, match=rf"choose another port with {flag}$"):
            Server(settings(tmp_path, **port)).start()
    assert not list(tmp_path.iterdir()), "nothing was started"


def test_a_second_server_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with Server(settings(tmp_path)), pytest.raises(StartError, match="in use by another server"):
        Server(settings(tmp_path)).start()


def test_an_invalid_store_url_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="--redis-url"):
        Server(settings(tmp_path, redis_url="localhost")).start()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_other_machines_are_served_only_with_a_token_or_insecure(tmp_path: Path, host: str) -> None:
    with pytest.raises(StartError, match="OPTIMA_TOKEN, or pass --insecure"):
        Server(settings(tmp_path, host=host))
    for flag in ("dashboard", "metrics"):
        fields = {f"{flag}_host": host, f"{flag}_port": 0}
        with pytest.raises(StartError, match=f"--{flag}-host {host} would show every run"):
            Server(settings(tmp_path, **fields))
        Server(settings(tmp_path, **fields, token="secret"))
    Server(settings(tmp_path, host=host, token="secret"))
    Server(settings(tmp_path, host=host, insecure=True))


def test_without_the_token_only_health_is_answered(tmp_path: Path) -> None:
    with Server(settings(tmp_path, token="secret")) as server, grpc.insecure_channel(server.address) as channel:
        stub = BanditStub(channel)
        for token, words in ((None, "requires a token"), ("wrong", "wrong token"), ("", "wrong token")):
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
            for call in (
                lambda m: stub.ListRuns(pb.ListRunsRequest(), metadata=m),
                lambda m: next(stub.WatchRun(pb.WatchRunRequest(run="r"), metadata=m)),
            ):
                with pytest.raises(grpc.RpcError) as caught:
                    call(metadata)
                assert isinstance(caught.value, grpc.Call)
                assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
                assert words in str(caught.value.details())
        stub.ListRuns(pb.ListRunsRequest(), metadata=(("authorization", "Bearer secret"),))
        # Its stubs do not list the methods.
        health: Any = health_pb2_grpc.HealthStub(channel)
        status = health.Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.SERVING


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret\n", encoding="utf-8")
    assert config.read_token(path, {}) == "secret"
    assert config.read_token(None, {"OPTIMA_TOKEN": "other"}) == "other"
    assert config.read_token(None, {"OPTIMA_TOKEN": "other", "OPTIMA_TOKEN_FILE": str(path)}) == "secret"
    with pytest.raises(StartError, match="OPTIMA_TOKEN_FILE /nowhere cannot be read"):
        config.read_token(None, {"OPTIMA_TOKEN_FILE": "/nowhere"})
    assert config.read_token(None, {"OPTIMA_TOKEN": ""}) is None
    path.write_text("\n", encoding="utf-8")
    for bad_path, words in ((path, "is empty"), (tmp_path / "none", "cannot be read")):
        with pytest.raises(StartError, match=words):
            config.read_token(bad_path, {})
    with pytest.raises(StartError, match="OPTIMA_TOKEN has characters other than"):
        config.read_token(None, {"OPTIMA_TOKEN": "geheim-ö"})
