"""`optima doctor` reports each problem in a sentence, with exit status 1."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bandit_server.config import Settings
from bandit_server.server import Server
from bandit_server.store.health_check import clock
from bandit_server.tls import ServerTls
from tests.bandit_server.certificates import Authority
from tests.launch import ROOT, free_port
from tests.server_process import eventually
from tests.stores import RedisServer, connected, process_id

TOKEN = "a-token-of-the-tests"


def doctor(*words: str, status: int, **environment: str) -> dict[str, str]:
    """Run the command; return its findings by name, each as `ok` or `WRONG` and a sentence."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("OPTIMA_")}
    done = subprocess.run(
        [sys.executable, "-m", "bandit_server.cli", "doctor", *words],
        env={**others, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert TOKEN not in done.stdout + done.stderr
    findings = {}
    for line in done.stdout.splitlines():
        if line.startswith(("ok ", "WRONG ")):
            word, what, sentence = (part.strip() for part in (line[:5], *line[7:].split("  ", 1)))
            findings[what] = f"{word} {sentence}"
    return findings


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


def test_a_sound_server_and_store_are_reported_ok(redis: RedisServer, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.certify("server", days=30)
    own, own_key = authority.certify("client")
    settings = Settings(
        port=0, dashboard_port=None, redis_url=redis.url, token=TOKEN, tls=ServerTls(cert, key, authority.cert)
    )
    shown = {"OPTIMA_TOKEN": TOKEN, "OPTIMA_TLS_CA": str(authority.cert), "OPTIMA_TLS_CLIENT_CERT": str(own),
             "OPTIMA_TLS_CLIENT_KEY": str(own_key)}  # fmt: skip
    with Server(settings) as server:
        findings = doctor("--server", server.address, "--redis-url", redis.url, status=0, **shown)
        assert [what for what, sentence in findings.items() if not sentence.startswith("ok")] == []
        assert {"TLS", "health", "token", "version", "clock", "store", "append-only file", "memory", "store clock"} == {
            *findings
        }
        bare = {"OPTIMA_TLS_CA": str(authority.cert)}
        assert "client certificate" in doctor("--server", server.address, status=1, **bare)["TLS"]
        assert "requires TLS" in doctor("--server", server.address, status=1)["connection"]
        wrong = {**shown, "OPTIMA_TOKEN": "another"}
        assert "wrong token" in doctor("--server", server.address, status=1, **wrong)["token"]
        stranger = {**shown, "OPTIMA_TLS_CA": str(Authority(tmp_path / "x", "x").cert)}
        assert "certificate is not accepted" in doctor("--server", server.address, status=1, **stranger)["TLS"]


def test_a_store_that_would_lose_histories_is_reported(redis: RedisServer) -> None:
    nobody = ("--server", f"127.0.0.1:{free_port()}", "--redis-url", redis.url)
    with connected(redis.url) as settings:
        try:
            settings.config_set("maxmemory-policy", "allkeys-lru")
            findings = doctor(*nobody, status=1)
            assert "no server listens at" in findings["connection"]
            assert "maxmemory-policy noeviction" in findings["memory"]
            settings.config_set("maxmemory-policy", "noeviction")
            settings.config_set("maxmemory", "2mb")
            settings.config_set("appendfsync", "no")
            findings = doctor(*nobody, status=1)
            assert "appendfsync everysec" in findings["append-only file"]
            settings.config_set("appendonly", "no")
            assert "set `appendonly yes`" in doctor(*nobody, status=1)["append-only file"]
        finally:
            for name, value in (("maxmemory", "0"), ("appendfsync", "always"), ("appendonly", "yes")):
                settings.config_set(name, value)


def test_a_store_that_does_not_answer_is_reported(redis: RedisServer, tmp_path: Path) -> None:
    settings = Settings(port=0, dashboard_port=None, redis_url=redis.url)
    with Server(settings) as server:
        process = psutil.Process(process_id(redis.url))
        process.suspend()
        try:
            eventually(lambda: "cannot serve" in doctor("--server", server.address, status=1).get("health", ""), 30)
            findings = doctor("--server", server.address, "--redis-url", redis.url, status=1)
            assert "the store cannot be used" in findings["store"]
        finally:
            process.resume()
    secret = doctor("--redis-url", f"redis://:hunter2@127.0.0.1:{free_port()}/0", status=1)["store"]
    assert "hunter2" not in secret


def test_a_port_that_is_no_bandit_server_is_reported(address: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        findings = doctor("--server", f"127.0.0.1:{silent.getsockname()[1]}", status=1)
        assert "does not respond" in findings["connection"]
    assert "is not an address" in doctor("--server", "nowhere", status=1)["connection"]
    assert "does not use TLS" in doctor("--server", address, "--tls-ca", "public", status=1)["TLS"]


@pytest.mark.parametrize(("seconds", "good"), [(0.2, True), (-4.9, True), (5.1, False), (-60.0, False)])
def test_clocks_that_differ_are_reported(seconds: float, good: bool) -> None:
    assert clock("clock", "the server", seconds).good is good
