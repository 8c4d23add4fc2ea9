"""The worker as its user runs it, through DeepSpeed's launcher and against a bandit server: what is not training."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bandit_server.config import Settings
from bandit_server.server import Server
from benchmarks.load import ROOT

ROUND = re.compile(r"round (\d+)/")


def launch(script: str, *arguments: str, ranks: int = 1) -> subprocess.Popen[str]:
    """Start ``deepspeed SCRIPT ARGUMENTS``, one thread a rank."""
    binaries = Path(sys.executable).parent
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    return subprocess.Popen(
        [str(binaries / "deepspeed"), "--num_accelerators", str(ranks), "--master_port", port, script, *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str], printed: list[str]) -> None:
    """Wait for its end. Raises SystemExit with the end of what it printed unless that is a good one."""
    if process.wait():
        sys.exit("".join(printed[-40:]) + f"{process.args} ended with {process.returncode}")


def play(recipe: Path, rounds: int, directory: Path) -> dict[str, Any]:
    """So many rounds after the first; where their time went."""
    output = directory / "run"
    settings = Settings(port=0, dashboard_port=None, data_dir=directory / "store")
    with Server(settings) as server:
        arguments = ["--bandit-addr", server.address, "--recipe", str(recipe), "--output-dir", str(output)]
        started = time.monotonic()
        process = launch("worker/train.py", *arguments, "--rounds", str(rounds + 1))
        assert process.stdout is not None
        printed, ends = [], []
        for line in process.stdout:
            printed.append(line)
            if ROUND.match(line):
                ends.append(time.monotonic())
        finished(process, printed)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = {name: [line[name] for line in lines] for name in ("seconds", "probe_seconds", "evaluate_seconds")}
    return {
        "rounds": rounds,
        "steps_per_round": lines[0]["steps"],
        "load_seconds": json.loads((output / "summary.json").read_text(encoding="utf-8"))["load_seconds"],
        "start_seconds": ends[0] - started - sum(values[0] for values in spent.values()),
        "seconds": ends[-1] - ends[0],
        "train_seconds": sum(spent["seconds"][1:]),
        "probe_seconds": sum(spent["probe_seconds"][1:]),
        "evaluate_seconds": sum(spent["evaluate_seconds"][1:]),
    }
