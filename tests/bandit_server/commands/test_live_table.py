"""`optima runs watch`: the dashboard's numbers on a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import grpc
from click.testing import CliRunner

from bandit_server.cli import main
from bandit_server.commands.live_table import age, spark
from tests.bandit_server.dashboard.driver import Driver
from tests.launch import ROOT, on_a_terminal
from tests.server_process import ServerProcess, eventually


def test_a_run_is_shown_once_with_the_numbers_of_its_page(server: Any) -> None:
    run = f"run-{uuid.uuid4().hex[:8]}"
    with grpc.insecure_channel(server.address) as channel:
        worker = Driver(channel, run)
        worker.play(6)
        worker.report(worker.select().arm, diverged=True)
        worker.heartbeat()
    done = CliRunner().invoke(main, ["runs", "--server", server.address, "watch", "--once", run])
    assert done.exit_code == 0, done.output
    assert f"{run}: active, policy optima" in done.output
    assert "7 of 100 rounds (0 in the tail, 1 diverged)" in done.output
    assert "6.25 steps/s" in done.output
    for arm in worker.arms:
        assert f"\n{arm} " in done.output
    missing = CliRunner().invoke(main, ["runs", "--server", server.address, "watch", "no-such-run"])
    assert missing.exit_code == 1
    assert "there is no run no-such-run" in missing.output


def test_a_terminal_follows_a_run_through_a_restart_of_the_server(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "store")
    with grpc.insecure_channel(server.address) as channel:
        Driver(channel, "r").play(1)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "bandit_server.cli", "runs", "--server", server.address, "watch", "r"]
    watching = subprocess.Popen(
        on_a_terminal(command),
        cwd=ROOT,
        stdout=theirs,
        env={**os.environ, "COLUMNS": "120", "LINES": "40"},
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = ""

    def shows(text: str) -> bool:
        nonlocal seen
        with contextlib.suppress(BlockingIOError):
            seen += os.read(ours, 1 << 16).decode(errors="replace")
        return text in seen

    try:
        eventually(lambda: shows("1 of 100 rounds"), seconds=30)
        server.kill()
        eventually(lambda: shows("Server unreachable, showing data from "), seconds=30)
        server.start()
        with grpc.insecure_channel(server.address) as channel:
            Driver(channel, "r").play(1)
        eventually(lambda: shows("2 of 200 rounds"), seconds=30)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 0
    finally:
        watching.kill()
        server.kill()
        os.close(ours)


def test_losses_are_formatted_as_bars_and_seconds_in_units() -> None:
    assert spark([4.0, None, 2.0, 1.0]) == "█▃▁"
    assert spark([1.0]) == ""
    assert spark([2.0, 2.0]) == "▁▁"
    assert [age(seconds) for seconds in (-1, 59, 119, 120, 7199, 7200, 172800)] == [
        "0 s", "59 s", "119 s", "2 min", "119 min", "2 h", "2 d",
    ]  # fmt: skip
