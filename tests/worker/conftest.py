"""DeepSpeed without its launcher, for the worker's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.launch import free_port
from worker.engine.process_group import ProcessGroup


@pytest.fixture(scope="session")
def _process_group() -> Iterator[ProcessGroup]:
    """The only one of this process: DeepSpeed remembers a group that has been destroyed."""
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**rank, "DS_ACCELERATOR": "cpu"}.items():
            patch.setenv(name, str(value))
        process_group = ProcessGroup()
    yield process_group
    process_group.close()


@pytest.fixture(scope="module")
def process_group(_process_group: ProcessGroup) -> Iterator[ProcessGroup]:
    """This process, as the only rank of a job."""
    with pytest.MonkeyPatch.context() as patch:
        # Every engine reads it.
        patch.setenv("LOCAL_RANK", "0")
        yield _process_group
