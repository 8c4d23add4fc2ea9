"""The command line, as a user runs it."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from protos.optima.v1.bandit_pb2_grpc import BanditStub
from tests.calls import Player, connected, run_summary
from tests.launch import free_port, on_a_terminal
from tests.server_process import eventually

OPTIMA = Path(sys.executable).parent / "optima"
RUNS = itertools.count()


def optima(*arguments: str, status: int = 0, **environment: str) -> str:
    """Run `optima …`; return its output, or its error output if it must fail."""
    done = subprocess.run(
        [str(OPTIMA), *arguments],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if status else done.stdout


@pytest.fixture
def run(address: str) -> str:
    name = f"cli-{next(RUNS)}"
    with connected(address) as stub:
        Player(stub, name).play(range(4))
    return name


def test_runs_are_listed_and_shown(address: str, run: str) -> None:
    rows = {line.split()[0]: line.split() for line in optima("runs", "list", OPTIMA_SERVER=address).splitlines()}
    assert rows[run][1:4] == ["active", "optima", "4"]
    shown = optima("runs", "--server", address, "show", run)
    assert f"{run}: active, policy optima, seed 7" in shown
    assert "4 pulls, 4 reports (0 in the tail, 0 diverged)" in shown
    assert all(arm in shown for arm in ("image", "text", "decoder"))


def test_a_policys_options_are_shown(address: str) -> None:
    with connected(address) as stub:
        Player(stub, "windowed", policy="sliding_window_ts", options={"window": 20}).play(range(30))
        assert max(arm.effective_count for arm in run_summary(stub, "windowed").arms) <= 20
    shown = optima("runs", "--server", address, "show", "windowed")
    assert "windowed: active, policy sliding_window_ts (window 20), seed 7" in shown


def test_a_run_is_exported_with_its_whole_history(address: str, run: str, tmp_path: Path) -> None:
    printed = optima("runs", "--server", address, "export", run)
    optima("runs", "--server", address, "export", run, "--output", str(tmp_path / "run.jsonl"))
    assert (tmp_path / "run.jsonl").read_text(encoding="utf-8") == printed
    events = [json.loads(line) for line in printed.splitlines()]
    kinds = [next(key for key in event if key not in ("schema", "time")) for event in events]
    assert kinds == ["run_created", "worker_started", *["arm_pulled", "reward_reported"] * 4]
    with connected(address) as stub:
        assert len(events) == run_summary(stub, run).version


def test_a_run_is_finished(address: str, run: str) -> None:
    for _ in range(2):
        assert optima("runs", "--server", address, "finish", run) == f"finished {run}\n"
    assert f"{run}: finished" in optima("runs", "--server", address, "show", run)
    assert "there is no run nowhere" in optima("runs", "--server", address, "finish", "nowhere", status=1)


def test_a_run_is_deleted(address: str, run: str) -> None:
    sentence = optima("runs", "--server", address, "delete", run, status=1)
    assert "has workers that are alive (w)" in sentence
    assert optima("runs", "--server", address, "delete", run, "--force") == f"deleted {run}\n"
    assert f"run {run} was deleted" in optima("runs", "--server", address, "show", run, status=1)


def test_a_missing_server_is_reported_in_one_sentence() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    sentence = f"Error: no bandit server answers at {nobody}; run `optima doctor` to find out why\n"
    assert optima("runs", "--server", nobody, "list", status=1) == sentence


def test_a_mistyped_command_is_met_with_the_nearest_one() -> None:
    assert "Error: No such command 'serv'; did you mean 'serve'?\n" in optima("serv", status=2)


def test_serve_refuses_unsafe_settings_and_taken_ports(address: str, tmp_path: Path) -> None:
    port = address.rpartition(":")[2]
    taken = f"Error: cannot listen on 127.0.0.1:{port} (Address already in use); choose another port with --port\n"
    assert optima("serve", "--port", port, "--no-dashboard", "--data-dir", str(tmp_path), status=1) == taken
    assert "--host 0.0.0.0 would let every machine" in optima("serve", "--host", "0.0.0.0", status=1)
    assert "would show every run" in optima("dashboard", "--host", "0.0.0.0", status=1)
    assert optima("dashboard", "--port", port, status=1) == taken


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_in_order(tmp_path: Path, number: signal.Signals) -> None:
    address = f"127.0.0.1:{free_port()}"
    command = [str(OPTIMA), "serve", "--port", address.rpartition(":")[2], "--dashboard-port", "0"]
    command += ["--data-dir", str(tmp_path)]
    with subprocess.Popen(on_a_terminal(command), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert f"bandit server: {address}" in process.stdout.readline()
        with connected(address) as stub:
            play(stub)
            process.send_signal(number)
            assert process.wait(20) == 0
    eventually(lambda: not (tmp_path / "valkey.sock").exists())


def play(stub: BanditStub) -> None:
    Player(stub, "r").play(range(2))
