"""A dashboard served for real, by uvicorn on a free port, for as long as a test needs it."""

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

# No test waits longer for anything.
DEADLINE = 20.0


def eventually(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds; AssertionError, naming what did not come, when it does not."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, f"this did not happen within {DEADLINE:g} s: {what}"
        threading.Event().wait(0.02)


@contextlib.contextmanager
def dashboard(server_address: str, token: str | None = None) -> Iterator[str]:
    """The URL of a dashboard of the bandit server at an address."""
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
    """The server-sent events of a URL, as (name, payload), comments left out."""
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
