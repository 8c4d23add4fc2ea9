"""Changes to runs through the dashboard: who may make them, and how refusals read."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest

from bandit_server.config import Settings
from bandit_server.server import Server
from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.bandit_server.dashboard.driver import Driver
from tests.bandit_server.dashboard.serving import dashboard
from tests.calls import history

TOKEN = "a-token-of-the-tests"


@pytest.fixture
def channel(server: Any) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as opened:
        yield opened


@pytest.fixture
def browser(server: Any) -> Iterator[httpx.Client]:
    with dashboard(server.address) as url, httpx.Client(base_url=url, timeout=20) as opened:
        yield opened


@pytest.fixture
def run(channel: grpc.Channel) -> str:
    name = f"run-{uuid.uuid4().hex[:8]}"
    Driver(channel, name).play(2)
    return name


def test_an_arm_is_paused_and_resumed_and_history_records_by_whom(
    browser: httpx.Client, channel: grpc.Channel, run: str
) -> None:
    for paused in (True, False):
        response = browser.patch(f"/api/runs/{run}/arms/image", json={"paused": paused})
        assert response.status_code == 200
        assert response.json()["run"]["arms"][0]["paused"] is paused
    updates = [event.arm_updated for event in history(BanditStub(channel), run) if event.HasField("arm_updated")]
    assert [(update.arm, update.paused, update.actor) for update in updates] == [
        ("image", True, "dashboard, 127.0.0.1"),
        ("image", False, "dashboard, 127.0.0.1"),
    ]
    log = browser.get(f"/api/runs/{run}/events", params={"kind": "arm"}).json()["events"]
    assert [(row["arm"], row["note"], row["by"]) for row in log] == [
        ("image", "resumed", "dashboard, 127.0.0.1"),
        ("image", "paused", "dashboard, 127.0.0.1"),
    ]


def test_refusals_have_the_server_s_message(browser: httpx.Client, run: str) -> None:
    for arm in ("image", "text"):
        browser.patch(f"/api/runs/{run}/arms/{arm}", json={"paused": True})
    last = browser.patch(f"/api/runs/{run}/arms/multimodal", json={"paused": True})
    assert (last.status_code, "multimodal" in last.json()["detail"]) == (409, True)
    unknown = browser.patch(f"/api/runs/{run}/arms/nose", json={"paused": True})
    assert (unknown.status_code, "nose" in unknown.json()["detail"]) == (400, True)
    nowhere = browser.patch("/api/runs/no-such-run/arms/image", json={"paused": True})
    assert (nowhere.status_code, nowhere.json()["detail"]) == (404, "there is no run no-such-run")
    bodies: list[object] = [{"paused": "maybe"}, {}, {"paused": True, "more": 1}, []]
    for body in bodies:
        assert browser.patch(f"/api/runs/{run}/arms/image", json=body).status_code == 422


def test_a_run_is_finished_and_its_history_records_it(browser: httpx.Client, channel: grpc.Channel, run: str) -> None:
    response = browser.patch(f"/api/runs/{run}", json={"state": "finished"})
    assert (response.status_code, response.json()["run"]["state"]) == (200, "finished")
    assert history(BanditStub(channel), run)[-1].run_finished.actor == "dashboard, 127.0.0.1"
    assert browser.patch(f"/api/runs/{run}", json={"state": "active"}).status_code == 422


def test_a_run_is_deleted_only_by_its_name_and_not_while_workers_are_alive(browser: httpx.Client, run: str) -> None:
    assert browser.delete(f"/api/runs/{run}").status_code == 422
    assert browser.delete(f"/api/runs/{run}", params={"confirm": "another"}).status_code == 400
    alive = browser.delete(f"/api/runs/{run}", params={"confirm": run})
    assert (alive.status_code, "workers that are alive" in alive.json()["detail"]) == (409, True)
    assert browser.delete(f"/api/runs/{run}", params={"confirm": run, "force": "true"}).json() == {"run": None}
    assert browser.get(f"/api/runs/{run}").status_code == 404


def test_a_page_of_another_site_changes_nothing(browser: httpx.Client, run: str) -> None:
    for headers in (
        {"origin": "https://elsewhere.example"},
        {"origin": "null"},
        # DNS rebinding: a name of another site that resolves to this machine.
        {"host": "elsewhere.example", "origin": "http://elsewhere.example"},
    ):
        response = browser.patch(f"/api/runs/{run}/arms/image", json={"paused": True}, headers=headers)
        assert response.status_code == 403
        assert "access-control-allow-origin" not in response.headers
    assert (
        browser.options(f"/api/runs/{run}/arms/image", headers={"origin": "https://elsewhere.example"}).status_code
        == 405
    )
    assert not browser.get(f"/api/runs/{run}").json()["run"]["arms"][0]["paused"]
    own = {"origin": str(browser.base_url).rstrip("/")}
    assert browser.patch(f"/api/runs/{run}/arms/image", json={"paused": True}, headers=own).status_code == 200


def test_with_a_token_acting_needs_it_even_where_anyone_may_look(tmp_path: Any) -> None:
    settings = Settings(port=0, dashboard_port=0, data_dir=tmp_path / "store", token=TOKEN, anyone_may_look=True)
    with Server(settings) as guarded, grpc.insecure_channel(guarded.address) as channel:
        Driver(channel, "r", token=TOKEN).play(2)
        with httpx.Client(base_url=str(guarded.dashboard_url), timeout=20) as browser:
            for path in ("/", "/compare", "/runs/r", "/api/runs", "/api/runs/r", "/api/runs/r/export/pulls.csv"):
                assert browser.get(path).status_code == 200, path
            assert browser.get("/api/session").json() == {"login": True, "acts": False}
            assert browser.get("/metrics").status_code == 401
            tries = [("/api/runs/r/arms/image", {"paused": True}), ("/api/runs/r", {"state": "finished"})]
            for path, body in tries:
                assert browser.patch(path, json=body).status_code == 401
            assert browser.delete("/api/runs/r", params={"confirm": "r", "force": True}).status_code == 401
            assert browser.get("/api/runs/r").json()["run"]["state"] == "active"
            browser.post("/login", data={"token": TOKEN})
            assert browser.get("/api/session").json() == {"login": True, "acts": True}
            for path, body in tries:
                assert browser.patch(path, json=body).status_code == 200
