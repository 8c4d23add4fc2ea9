"""What tests of several packages need: a real bandit server with a real store; and how tests are told apart."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from bandit_server.config import Settings
from bandit_server.server import Server

# Tests run side by side, one a core. With torch's default of a thread a core in each, two cores spend a third of their
# time on threads that wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line("markers", "deepspeed: starts DeepSpeed jobs, and takes minutes")
    config.addinivalue_line("markers", "slow: takes minutes and gigabytes; not part of make test")
    config.addinivalue_line("markers", "alone: holds a time that counts; nothing runs beside it")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the embedded store, for every test that does not harm it; runs are told apart by name."""
    settings = Settings(port=0, dashboard_port=None, data_dir=tmp_path_factory.mktemp("store"))
    with Server(settings) as running:
        yield running


@pytest.fixture(scope="session")
def address(server: Server) -> str:
    """Where that server listens."""
    return server.address
