"""A store for replicas without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bandit_server.store.embedded import EmbeddedValkey


@dataclass(frozen=True)
class Valkey:
    """An embedded Valkey, and the event loop in which it runs and is used."""

    runner: asyncio.Runner
    url: str


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with asyncio.Runner() as runner:
        embedded = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
        runner.run(embedded.start())
        try:
            yield Valkey(runner, embedded.url)
        finally:
            runner.run(embedded.stop())
