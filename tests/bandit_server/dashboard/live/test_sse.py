"""The dashboard with a server that is faulty, slow or watched by many."""

from __future__ import annotations

import threading
import time

import httpx

from tests.bandit_server.dashboard.history import History
from tests.bandit_server.dashboard.scripted import serving
from tests.bandit_server.dashboard.serving import dashboard, events, eventually


def test_twenty_viewers_of_a_run_cost_the_server_one_watch() -> None:
    history = History()
    history.select(0, "image")
    seen: list[int] = []

    def view(url: str) -> None:
        with events(url) as stream:
            for name, payload in stream:
                if name == "data":
                    seen.append(payload["version"])
                    if payload["version"] == 3:
                        return

    with serving(history) as server, dashboard(server.address) as url:
        viewers = [threading.Thread(target=view, args=(f"{url}/events/runs/demo",)) for _ in range(20)]
        for viewer in viewers:
            viewer.start()
        eventually(lambda: len(seen) == 20, "every viewer has the snapshot")
        history.report(0, "image")
        for viewer in viewers:
            viewer.join(20)
        assert sorted(seen) == [2] * 20 + [3] * 20
        assert server.watches == 1


def test_a_late_viewer_gets_a_snapshot_and_then_only_what_is_new() -> None:
    history = History()
    for number in range(5):
        history.select(number, "text")
        history.report(number, "text", total_loss=1.0)
    with serving(history) as server, dashboard(server.address) as url, events(f"{url}/events/runs/demo") as stream:
        first = next(payload for name, payload in stream if name == "data")
        assert first["reset"]
        assert len(first["cells"]) == 5
        history.select(5, "image")
        second = next(payload for name, payload in stream if name == "data")
        assert not second["reset"]
        assert [cell[0] for cell in second["cells"]] == [5]
        assert {line["chart"] for line in second["series"]} == {"share"}
        assert [row["kind"] for row in second["log"]] == ["pull"]


def test_a_long_history_shows_its_progress_and_nothing_else_before_its_end() -> None:
    history = History()
    history.select(0, "text")
    with serving(history) as server, dashboard(server.address) as url:
        # Set before the first viewer, or the end of the history may have been sent by then.
        server.live = False
        with events(f"{url}/events/runs/demo") as stream:
            messages = [next(stream) for _ in range(2)]
            assert [payload["state"] for _, payload in messages] == ["connecting", "reading"]
            assert messages[1][1]["reason"] == f"{len(history.events)} events so far"
            response = httpx.get(f"{url}/api/runs/demo", timeout=30)
            assert response.status_code == 503
            assert "is still being read (2 events so far): try again later" in response.json()["detail"]
            server.live = True
            history.report(0, "text")
            messages = [next(stream) for _ in range(2)]
            assert messages[0][1]["state"] == "live"
            assert messages[1][1]["version"] == len(history.events)


def test_a_frozen_server_makes_the_page_stale_until_it_answers_again() -> None:
    history = History()
    with serving(history) as server, dashboard(server.address) as url, events(f"{url}/events/runs/demo") as stream:
        assert next(payload["state"] for name, payload in stream if name == "status" and payload["state"] == "live")
        before = time.time()
        server.frozen.set()
        stale = next(payload for name, payload in stream if name == "status")
        assert stale["state"] == "stale"
        assert before - 5 < stale["since"] < time.time()
        assert stale["reason"] == "the bandit server does not answer"
        server.frozen.clear()
        assert next(payload["state"] for name, payload in stream if name == "status") == "live"


def test_a_batch_that_does_not_continue_the_history_has_it_fetched_again() -> None:
    history = History()
    history.select(0, "text")
    with serving(history) as server, dashboard(server.address) as url, events(f"{url}/events/runs/demo") as stream:
        assert next(payload["version"] for name, payload in stream if name == "data") == 2
        server.version_error = 7
        history.report(0, "text")
        again = next(payload for name, payload in stream if name == "data")
        assert (again["reset"], again["version"], len(again["cells"])) == (True, 3, 1)
        assert server.watches == 2


def test_a_feed_outlives_its_viewers_for_the_next_one() -> None:
    history = History()
    with serving(history) as server, dashboard(server.address) as url:
        for _ in range(3):
            assert httpx.get(f"{url}/api/runs/demo", timeout=20).status_code == 200
        assert server.watches == 1


def test_the_token_is_sent_to_the_server_only() -> None:
    with serving(History()) as server, dashboard(server.address, token="a-secret-token") as url:
        for path in ("/", "/healthz", "/api/runs", "/api/runs/demo", "/api/openapi.json"):
            response = httpx.get(url + path, headers={"authorization": "Bearer a-secret-token"}, timeout=20)
            assert response.status_code == 200
            assert "a-secret-token" not in response.text + str(response.headers)
        assert server.authorizations == {"Bearer a-secret-token"}
