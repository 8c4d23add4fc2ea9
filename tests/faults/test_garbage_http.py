"""Invalid requests to the dashboard: no 5xx, no traceback, and no growth of memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import grpc
import httpx
import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import Player, run_summary
from tests.server_process import ServerProcess, eventually

TOKEN = "a-token-of-the-tests"
REQUESTS = 1000
GROWTH_BYTES = 24 * 2**20

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.sampled_from(
    ["r", "x" * 65, "../../etc/passwd", "%2e%2e/", "<script>", "a b", "\x00", "null", "-1", "é" * 30]
)
# The characters that h11 lets a client send in a header.
HEADER = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
METHODS = st.sampled_from(["GET", "GET", "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    directory = tmp_path_factory.mktemp("http")
    (directory / "token").write_text(TOKEN, encoding="ascii")
    process = ServerProcess(directory / "store", token_file=directory / "token", dashboard=True)
    with process.stub() as stub:
        Player(authorized(stub), "r").play(range(3))
    yield process
    process.kill()
    log = (directory / "server.log").read_text(encoding="utf-8", errors="replace")
    assert "Traceback" not in log
    assert TOKEN not in log


def authorized(stub: BanditStub) -> Any:
    """Return the stub's calls with the token."""

    class Calls:
        def __getattr__(self, name: str) -> Any:
            metadata = (("authorization", f"Bearer {TOKEN}"),)
            return lambda request, timeout=20: getattr(stub, name)(request, timeout=timeout, metadata=metadata)

    return Calls()


@pytest.fixture(scope="module")
def browser(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.dashboard_port}", timeout=20) as opened:
        eventually(lambda: opened.get("/healthz").status_code == 200)
        yield opened


def paths(browser: httpx.Client) -> list[str]:
    """Return the dashboard's paths: those in its OpenAPI schema, and the others."""
    in_schema = browser.get("/api/openapi.json", headers={"authorization": f"Bearer {TOKEN}"}).json()["paths"]
    return [*in_schema, "/", "/runs/{run}", "/events/runs/{run}", "/login", "/logout", "/metrics", "/static/{run}",
            "/api/session", "/{run}"]  # fmt: skip


def test_no_request_breaks_the_dashboard_or_changes_a_run(server: ServerProcess, browser: httpx.Client) -> None:
    known_paths = paths(browser)
    sent, memory = 0, 0
    process = psutil.Process(server.pid)
    with server.stub() as stub:
        before = run_summary(authorized(stub), "r")

    @settings(max_examples=REQUESTS, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        method=METHODS, path=st.sampled_from(known_paths), name=TEXT, query=st.dictionaries(TEXT, TEXT, max_size=3),
        token=st.sampled_from(["right", "right", "none", "wrong"]), wrong=HEADER,
        headers=st.dictionaries(
            st.sampled_from(["accept", "cookie", "range", "if-none-match", "origin", "content-type", "x-forwarded-for",
                             "x-forwarded-proto", "accept-encoding", "content-language"]), HEADER, max_size=3),
        body=st.none() | st.binary(max_size=300)
            | st.dictionaries(TEXT, TEXT, max_size=4).map(lambda fields: httpx.QueryParams(fields).__str__().encode())
            | st.sampled_from([b"token=" + b"x" * 5000, b"token=" + TOKEN.encode()]),
    )  # fmt: skip
    def send(**drawn: Any) -> None:
        nonlocal sent, memory
        headers = {name: value.encode() for name, value in drawn["headers"].items()}
        if drawn["token"] != "none":
            headers["authorization"] = f"Bearer {TOKEN if drawn['token'] == 'right' else drawn['wrong']}".encode()
        url = drawn["path"].replace("{run}", quote(drawn["name"], safe=""))
        request = browser.stream(drawn["method"], url, params=drawn["query"], headers=headers, content=drawn["body"])
        with request as response:
            assert response.status_code < 500, (drawn["method"], url, response.status_code)
            assert response.headers["x-content-type-options"] == "nosniff"
            # An event stream has no end, so only its head is read.
            if "event-stream" not in response.headers.get("content-type", ""):
                text = response.read().decode(errors="replace")
                assert "Traceback" not in text
                assert TOKEN not in text
        browser.cookies.clear()
        sent += 1
        memory = memory or (process.memory_info().rss if sent == REQUESTS // 3 else 0)

    send()
    assert sent >= REQUESTS * 0.9
    assert process.memory_info().rss - memory < GROWTH_BYTES
    with server.stub() as stub:
        assert run_summary(authorized(stub), "r") == before
    assert browser.get("/api/runs/r", headers={"authorization": f"Bearer {TOKEN}"}).json()["run"]["rounds"] == 3


def test_a_call_without_the_token_changes_nothing(server: ServerProcess) -> None:
    with server.stub() as stub:
        before = run_summary(authorized(stub), "r")
        with pytest.raises(grpc.RpcError, match="requires a token"):
            Player(stub, "r")
        assert run_summary(authorized(stub), "r") == before
