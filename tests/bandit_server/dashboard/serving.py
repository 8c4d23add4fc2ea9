"""A real dashboard, run by uvicorn on a free port for the duration of a test."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import uvicorn

from bandit_server.dashboard.web.app import create_app

# Seconds that a test waits for anything.
DEADLINE = 20.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds; fail with `what` after DEADLINE seconds."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"this did not happen within {DEADLINE:g} s: {what}"
        threading.Event().wait(0.02)


@contextlib.contextmanager
def dashboard(server_address: str, token: str | None = None) -> Iterator[str]:
    """Run a dashboard of the bandit server at an address, and return its URL."""
    config = uvicorn.Config(create_app(server_address, token), port=0, log_level="warning", timeout_graceful_shutdown=0)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    eventually(lambda: server.started, "the dashboard starts")
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive(), "the dashboard did not stop"


@contextlib.contextmanager
def events(url: str) -> Iterator[Iterator[tuple[str, dict[str, Any]]]]:
    """Open a stream of server-sent events, as (name, payload) without comments."""
    with httpx.stream("GET", url, timeout=DEADLINE) as response:
        assert response.status_code == 200
        yield _parsed(response.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))
