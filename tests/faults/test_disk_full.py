"""The disk of the embedded store is full: writes are refused with the reason, and reads are still served."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import grpc
import psutil

from tests.calls import Player, connected, history, run_summary
from tests.server_process import ServerProcess, eventually


@contextlib.contextmanager
def full(store: psutil.Process, data: Path) -> Iterator[None]:
    """Keep the store's file from growing, as on a full disk."""
    (file,) = (data / "appendonlydir").glob("*.incr.aof")
    limits = store.rlimit(psutil.RLIMIT_FSIZE)
    store.rlimit(psutil.RLIMIT_FSIZE, (file.stat().st_size, limits[1]))
    try:
        yield
    finally:
        store.rlimit(psutil.RLIMIT_FSIZE, limits)


def refusal(player: Player, round: int) -> grpc.Call | None:
    """Select an arm for a new round, and return the refusal, if any."""
    try:
        player.select(round)
    except grpc.RpcError as error:
        return cast(grpc.Call, error)
    return None


def test_a_full_disk_is_reported_and_stored_history_is_served(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    try:
        with connected(server.address) as stub:
            player = Player(stub, "r")
            player.play(range(10))
            first = player.select(0)
            process = server.store().pid
            with full(server.store(), server.data):
                # The store notices on an append, which it keeps in memory and tries to write once a second.
                rounds = iter(range(10, 1000))
                eventually(lambda: refusal(player, next(rounds)) is not None)
                stored = run_summary(stub, "r").version
                refused = refusal(player, 1000)
                assert refused is not None
                assert refused.code() == grpc.StatusCode.UNAVAILABLE
                assert "File too large" in str(refused.details()), "the operating system's reason"
                assert run_summary(stub, "r").version == stored
                assert len(history(stub, "r")) == stored
                assert player.select(0).pull == first.pull, "a repeat of a stored pull is answered"
            eventually(lambda: refusal(player, 1001) is None)
            assert server.store().pid == process, "nothing had to restart"
            before = history(stub, "r")
        server.restart()
        with connected(server.address) as stub:
            assert history(stub, "r") == before
    finally:
        server.kill()
