"""The dashboard over HTTP, beside a real bandit server."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.bandit_server.dashboard.driver import ARMS, Driver
from tests.bandit_server.dashboard.serving import dashboard, events
from tests.calls import Player


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def url(server: Any) -> Iterator[str]:
    with dashboard(server.address) as served:
        yield served


@pytest.fixture
def run() -> str:
    return f"run-{uuid.uuid4().hex[:8]}"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_run_is_shown_as_the_server_has_it(channel: grpc.Channel, url: str, run: str) -> None:
    worker = Driver(channel, run)
    worker.play(6)
    worker.report(worker.select().arm, diverged=True)
    worker.tail(2)
    worker.select()
    worker.heartbeat()
    payload = httpx.get(f"{url}/api/runs/{run}", timeout=20).json()
    assert payload["status"]["state"] == "live"
    assert payload["run"]["rounds"] == 9
    assert payload["run"]["tail_rounds"] == 2
    assert payload["run"]["diverged"] == 1
    assert [arm["name"] for arm in payload["run"]["arms"]] == list(ARMS)
    assert sum(arm["pulls"] for arm in payload["run"]["arms"]) == 8
    assert payload["arm_names"][:3] == list(ARMS)
    assert [row["worker"] for row in payload["run"]["workers"]] == [worker.caller.worker]
    assert payload["run"]["workers"][0]["alive"]
    assert payload["run"]["workers"][0]["steps_per_second"] == 6.25
    assert payload["run"]["workers"][0]["teacher_metrics"] == {"accuracy": 0.975}
    assert len(payload["cells"]) == 10
    charts = {line["chart"] for line in payload["series"]}
    assert charts == {"posterior", "best", "share", "spent", "bandit", "total", "term", "metric"}
    (total,) = [line for line in payload["series"] if line["chart"] == "total"]
    assert total["y"][0][0] == pytest.approx(payload["run"]["first_loss"], rel=1e-6)
    assert payload["run"]["top_arm"]["name"] in ARMS


def test_a_policy_and_its_options_are_explained(channel: grpc.Channel, url: str, run: str) -> None:
    Player(BanditStub(channel), run, policy="sliding_window_ts", options={"window": 20}).play(range(3))
    settings = dict(httpx.get(f"{url}/api/runs/{run}", timeout=20).json()["run"]["settings"])
    assert settings["Policy"] == "sliding_window_ts: Thompson sampling on the most recent pulls of the run only"
    assert settings["Options"] == "window: 20 most recent pulls of the run count"


def test_the_list_of_runs_is_newest_first(channel: grpc.Channel, url: str, run: str) -> None:
    Driver(channel, f"{run}.a").play(2)
    Driver(channel, f"{run}.b", policy="uniform")
    payload = httpx.get(f"{url}/api/runs", timeout=20).json()
    names = [row["run"] for row in payload["runs"] if row["run"].startswith(run)]
    assert names == [f"{run}.b", f"{run}.a"]
    rows = {row["run"]: row for row in payload["runs"]}
    assert rows[f"{run}.a"]["rounds"] == 2
    assert rows[f"{run}.a"]["workers"] == 1
    assert rows[f"{run}.b"]["last_loss"] is None


def test_a_report_is_pushed_within_a_second(channel: grpc.Channel, url: str, run: str) -> None:
    worker = Driver(channel, run)
    worker.play(3)
    with events(f"{url}/events/runs/{run}") as one, events(f"{url}/events/runs") as all_runs:
        assert next(payload for name, payload in one if name == "data")["run"]["rounds"] == 3
        assert next(payload for name, payload in all_runs if name == "data")["reset"]
        pull = worker.select()
        worker.report(pull.arm)
        stored = time.monotonic()
        assert any(payload["run"]["rounds"] == 4 for name, payload in one if name == "data")
        assert time.monotonic() - stored < 1
        rows = (row for name, payload in all_runs if name == "data" for row in payload["runs"])
        assert any(row["run"] == run and row["rounds"] == 4 for row in rows)
        assert time.monotonic() - stored < 1


def test_a_missing_run_is_404_and_appears_once_it_is_created(channel: grpc.Channel, url: str, run: str) -> None:
    response = httpx.get(f"{url}/api/runs/{run}", timeout=20)
    assert response.status_code == 404
    with events(f"{url}/events/runs/{run}") as stream:
        assert any(payload["state"] == "missing" for name, payload in stream if name == "status")
        Driver(channel, run)
        assert any(payload["state"] == "live" for name, payload in stream if name == "status")


@pytest.mark.parametrize("name", ["a b", "%3Cimg%20src=x%3E", "x" * 65])
def test_an_invalid_name_is_refused(url: str, name: str) -> None:
    for path in ("runs", "api/runs", "events/runs"):
        response = httpx.get(f"{url}/{path}/{name}", timeout=20)
        assert response.status_code == 422
        assert response.headers["content-type"] == "application/json"


def test_without_a_server_it_is_healthy_and_says_that_the_server_is_away() -> None:
    with dashboard(f"127.0.0.1:{free_port()}") as url:
        health = httpx.get(f"{url}/healthz", timeout=20)
        assert (health.status_code, health.json()["bandit_server"]) == (200, "away")
        response = httpx.get(f"{url}/api/runs", timeout=20)
        assert (response.status_code, response.json()["detail"]) == (503, "the bandit server does not answer")
        assert httpx.get(url, timeout=20).status_code == 200


def test_with_a_server_it_is_healthy(url: str) -> None:
    assert httpx.get(f"{url}/healthz", timeout=20).json() == {"status": "ok", "bandit_server": "reachable"}


@pytest.mark.parametrize(
    "path", ["/", "/runs/x", "/api/runs", "/api/runs/no-such-run", "/nowhere", "/static/js/run.js", "/healthz"]
)
def test_every_response_has_the_strict_policy(url: str, path: str) -> None:
    headers = httpx.get(url + path, timeout=20).headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_read_only_paths_refuse_other_methods(url: str, method: str) -> None:
    for path in ("/", "/compare", "/runs/x", "/api/runs", "/api/runs/x/events", "/events/runs/x"):
        assert httpx.request(method, url + path, timeout=20).status_code == 405


def test_the_api_describes_itself_and_loads_nothing_from_elsewhere(url: str) -> None:
    described = httpx.get(f"{url}/api/openapi.json", timeout=20).json()
    assert set(described["paths"]) == {
        "/api/runs", "/api/runs/{run}", "/api/runs/{run}/arms/{arm}", "/api/runs/{run}/events",
        "/api/runs/{run}/export/events.jsonl", "/api/runs/{run}/export/{table}.{form}", "/healthz",
    }  # fmt: skip
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            assert operation["description"], f"{method} {path}"
            content = operation["responses"]["200"]["content"]
            assert all(
                kind != "application/json" or form.get("schema") or "export" in path for kind, form in content.items()
            )
    assert httpx.get(f"{url}/docs", timeout=20).status_code == 404


def test_a_history_is_listed_by_event_and_filtered(channel: grpc.Channel, url: str, run: str) -> None:
    worker = Driver(channel, run)
    worker.play(4)
    worker.report(worker.select().arm, diverged=True)
    worker.tail(1)

    def fetch(**query: object) -> list[dict[str, Any]]:
        response = httpx.get(f"{url}/api/runs/{run}/events", params=query, timeout=20)  # type: ignore[arg-type]
        assert response.status_code == 200
        return list(response.json()["events"])

    whole = fetch()
    assert [row["version"] for row in whole] == list(range(13, 0, -1))
    assert [row["kind"] for row in whole[-4:]] == ["report", "pull", "worker", "created"]
    assert (whole[0]["arm"], whole[0]["by"], whole[0]["reward"]) == ("joint", "tail", None)
    assert [row["kind"] for row in fetch(kind=["diverged", "created"])] == ["diverged", "created"]
    assert [row["version"] for row in fetch(before=5, limit=2)] == [4, 3]
    arm = whole[-3 - 1]["arm"]
    assert {row["arm"] for row in fetch(arm=arm)} == {arm}
    assert len(fetch(worker=worker.caller.worker)) == 12
    assert fetch(worker="another") == []
    assert httpx.get(f"{url}/api/runs/{run}/events", params={"kind": "nonsense"}, timeout=20).status_code == 422


def test_several_runs_come_in_one_stream(channel: grpc.Channel, url: str, run: str) -> None:
    one, other = Driver(channel, f"{run}.a"), Driver(channel, f"{run}.b", policy="round_robin")
    one.play(2)
    with events(f"{url}/events/compare?run={run}.a&run={run}.b&run={run}.c") as stream:
        seen: dict[str, int] = {}
        missing = set()
        for name, payload in stream:
            if name == "status" and payload["state"] == "missing":
                missing.add(payload["run"])
            if name == "data":
                seen[payload["run"]["run"]] = payload["run"]["rounds"]
                if len(seen) == 2 and other.round == 0:
                    other.play(3)
            if seen == {f"{run}.a": 2, f"{run}.b": 3} and missing:
                break
        assert missing == {f"{run}.c"}
    for query in ("", "?" + "&".join(f"run=r{at}" for at in range(9)), "?run=a%20b"):
        assert httpx.get(f"{url}/events/compare{query}", timeout=20).status_code == 422


def test_the_vendored_chart_library_comes_with_its_licence(url: str) -> None:
    assert "MIT License" in httpx.get(f"{url}/static/vendor/uPlot.LICENSE.txt", timeout=20).text
