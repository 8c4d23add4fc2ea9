"""TLS and mTLS with real certificates, and the errors of files that cannot be used."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
import httpx
import pytest

from bandit_server.config import Settings
from bandit_server.errors import StartError
from bandit_server.server import Server
from bandit_server.tls import ServerTls, client_tls, server_tls
from protos.optima.v1 import bandit_pb2 as pb
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.bandit_server.certificates import Authority
from tests.launch import ROOT
from worker.client.client import BanditClient
from worker.client.credentials import Credentials
from worker.client.journal import Journal
from worker.errors import BanditUnreachable

TOKEN = "a-token-of-the-tests"


@dataclass
class Guarded:
    """A server with mTLS and a token, and the files with which clients call it."""

    server: Server
    ca: Path
    cert: Path
    key: Path
    token: Path
    stranger: tuple[Path, Path]

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OPTIMA_TLS_CA": str(self.ca),
            "OPTIMA_TLS_CLIENT_CERT": str(self.cert),
            "OPTIMA_TLS_CLIENT_KEY": str(self.key),
            "OPTIMA_TOKEN_FILE": str(self.token),
        }

    def trusting(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    directory = tmp_path_factory.mktemp("tls")
    servers, clients, others = (Authority(directory / name, name) for name in ("servers", "clients", "others"))
    cert, key = servers.certify("server")
    own_cert, own_key = clients.certify("worker")
    token = directory / "token"
    token.write_text(f"{TOKEN}\n", encoding="ascii")
    tls = ServerTls(cert, key, clients.cert)
    settings = Settings(port=0, dashboard_port=0, metrics_port=0, data_dir=directory / "store", token=TOKEN, tls=tls)
    with Server(settings) as server:
        yield Guarded(server, servers.cert, own_cert, own_key, token, others.certify("stranger"))


def call_status(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.StatusCode:
    """Make a call with the token; return its status."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    with (
        grpc.secure_channel(address, credentials, options)
        if credentials
        else grpc.insecure_channel(address, options) as channel
    ):
        try:
            metadata = (("authorization", f"Bearer {TOKEN}"),)
            BanditStub(channel).ListRuns(pb.ListRunsRequest(), timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return cast(grpc.Call, error).code()
    return grpc.StatusCode.OK


def test_only_clients_with_a_certificate_of_the_authority_are_answered(guarded: Guarded) -> None:
    address = guarded.server.address
    ca, own = str(guarded.ca), (guarded.cert, guarded.key)
    clients = {
        "the right one": client_tls(ca, *own),
        "none": client_tls(ca, None, None),
        "another authority's": client_tls(ca, *guarded.stranger),
        "one that distrusts the server": client_tls(str(guarded.stranger[0]), *own),
    }
    codes = {name: call_status(address, tls.credentials() if tls else None) for name, tls in clients.items()}
    codes["no TLS"] = call_status(address, None)
    refused = grpc.StatusCode.UNAVAILABLE
    assert codes == {name: grpc.StatusCode.OK if name == "the right one" else refused for name in codes}


def test_a_worker_trains_over_mtls(guarded: Guarded, tmp_path: Path) -> None:
    spec = pb.RunSpec(
        arms=[pb.Arm(name="a", modules=["m"])],
        steps_per_round=1,
        reward=pb.REWARD_KIND_RELATIVE,
        train=pb.TRAIN_MODE_FORCED,
    )
    spec.policy.name = "optima"

    def client(name: str, environment: dict[str, str]) -> BanditClient:
        journal = Journal(tmp_path / f"{name}.jsonl")
        credentials = Credentials.from_environment(environment)
        return BanditClient(guarded.server.address, run="tls", worker=name, spec=spec, journal=journal,
                            credentials=credentials, patience=3)  # fmt: skip

    worker = client("w", guarded.environment)
    try:
        worker.wait_ready()
        assert worker.start().created
        pull = worker.select(0)
        assert pull is not None
        measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1, after=0.75, steps=1, seconds=1)
        assert worker.report(0, pull.arm, pull.chosen_by, measured).reward == pytest.approx(0.25)
    finally:
        worker.close()
    bare = client("bare", {"OPTIMA_TOKEN": TOKEN})
    try:
        with pytest.raises(BanditUnreachable):
            bare.wait_ready(1)
    finally:
        bare.close()


def test_the_servers_dashboard_is_served_over_tls(guarded: Guarded) -> None:
    url = guarded.server.dashboard_url
    assert url is not None
    assert url.startswith("https://127.0.0.1:")
    with httpx.Client(verify=guarded.trusting(), base_url=url, timeout=20) as browser:
        assert browser.get("/api/runs").status_code == 401
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert browser.get("/api/runs", headers=bearer).json()["status"]["state"] == "live"
        entered = browser.post("/login", data={"token": TOKEN})
        cookie = entered.headers["set-cookie"]
        assert cookie.startswith("__Host-optima-session=")
        for word in ("HttpOnly", "SameSite=strict", "Secure", "Path=/"):
            assert word in cookie
        assert TOKEN not in cookie
        assert browser.get("/api/runs").status_code == 200
    metrics = f"https://127.0.0.1:{guarded.server.metrics_port}/metrics"
    assert httpx.get(metrics, verify=guarded.trusting(), headers=bearer).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=5)


def test_commands_and_a_separate_dashboard_call_over_mtls(guarded: Guarded) -> None:
    def command(*words: str) -> list[str]:
        return [sys.executable, "-m", "bandit_server.cli", *words]

    environment = {**os.environ, **guarded.environment, "OPTIMA_SERVER": guarded.server.address}
    listed = subprocess.run(command("runs", "list"), env=environment, cwd=ROOT, capture_output=True, text=True,
                            timeout=60, check=False)  # fmt: skip
    assert (listed.returncode, listed.stdout.split()[:2]) == (0, ["RUN", "STATE"]), listed.stderr
    with subprocess.Popen(command("dashboard", "--port", "0"), env=environment, cwd=ROOT, stdout=subprocess.PIPE,
                          text=True) as served:  # fmt: skip
        try:
            assert served.stdout is not None
            url = served.stdout.readline().split()[-1]
            bearer = {"authorization": f"Bearer {TOKEN}"}
            with httpx.Client(transport=httpx.HTTPTransport(retries=10), timeout=20) as browser:
                assert browser.get(f"{url}/api/runs", headers=bearer).json()["status"]["state"] == "live"
                assert browser.get(f"{url}/api/runs").status_code == 401
        finally:
            served.terminate()


def test_files_that_cannot_be_used_are_refused_with_a_sentence(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.certify("one")
    _, other = authority.certify("other")
    text = tmp_path / "text"
    text.write_text("no certificate", encoding="ascii")
    locked = tmp_path / "locked.key"
    subprocess.run(
        ["openssl", "ec", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    ServerTls(cert, key, authority.cert).check()
    for tls, words in (
        (ServerTls(tmp_path / "none", key), "--tls-cert .*none cannot be read: No such file"),
        (ServerTls(cert, other), "--tls-key .*other.key does not belong to the certificate"),
        (ServerTls(text, key), "text or --tls-key .*one.key is not PEM"),
        (ServerTls(cert, locked), "is encrypted"),
        (ServerTls(cert, key, text), "--tls-client-ca .* contains no PEM certificate"),
    ):
        with pytest.raises(StartError, match=words):
            tls.check()
        with pytest.raises(StartError, match=words):
            Server(Settings(tls=tls))
    for half in ((cert, None, None), (None, key, None), (None, None, cert)):
        with pytest.raises(StartError, match="TLS requires both"):
            server_tls(*half)
    with pytest.raises(StartError, match="requires both --tls-client-cert"):
        client_tls(str(cert), cert, None)
    with pytest.raises(StartError, match="requires --tls-ca"):
        client_tls(None, cert, key)
