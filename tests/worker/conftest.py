"""What the worker's tests need of DeepSpeed without its launcher."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch import free_port
from worker.engine.process_group import Ranks


@pytest.fixture(scope="session")
def process_group() -> Iterator[Ranks]:
    """Once in a process: DeepSpeed remembers a group that has been destroyed."""
    given = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**given, "DS_ACCELERATOR": "cpu"}.items():
            patch.setenv(name, str(value))
        ranks = Ranks()
    yield ranks
    ranks.close()


@pytest.fixture(scope="module")
def ranks(process_group: Ranks) -> Iterator[Ranks]:
    """This process alone, as the only rank of a job."""
    with pytest.MonkeyPatch.context() as patch:
        # Every engine asks for it.
        patch.setenv("LOCAL_RANK", "0")
        yield process_group
