"""Fixtures for tests of several packages: a real bandit server with a real store; and the markers of tests."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bandit_server.config import Settings
from bandit_server.server import Server

# Tests run in parallel, one per core. With torch's default of one thread per core in each, two cores would spend a
# third of their time on threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the markers."""
    config.addinivalue_line("markers", "deepspeed: starts DeepSpeed jobs, and takes minutes")
    config.addinivalue_line("markers", "slow: takes minutes and gigabytes; not part of make test")
    config.addinivalue_line("markers", "alone: measures a time; nothing runs beside it")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded store, for every test that leaves it intact; each test has runs of its own names."""
    settings = Settings(port=0, dashboard_port=None, data_dir=tmp_path_factory.mktemp("store"))
    with Server(settings) as running:
        yield running


@pytest.fixture(scope="session")
def address(server: Server) -> str:
    """The address of that server."""
    return server.address
