"""Starts what is measured, as a user does: through DeepSpeed's launcher, and the worker against a bandit server."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bandit_server.config import Settings
from bandit_server.server import Server
from benchmarks.server.load import ROOT

ROUND = re.compile(r"round (\d+)/")


def _launch(script: str, *arguments: str, ranks: int) -> subprocess.Popen[str]:
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


def job(recipe: Path, ranks: int, *arguments: str) -> dict[str, Any]:
    """What `benchmarks/step_time/job.py` tells."""
    process, told = _job(recipe, ranks, *arguments)
    _finished(process, list(process.stdout or ()))
    return _read(told)


def job_and_run(
    recipe: Path, flags: Sequence[str], rounds: int, directory: Path, *arguments: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same, of one rank, after a run with these flags and so many rounds after the first; and where the run's time
    went."""
    output = directory / "run"
    settings = Settings(port=0, dashboard_port=None, data_dir=directory / "store")
    with Server(settings) as server:
        flags = ["--bandit-addr", server.address, "--recipe", str(recipe), "--output-dir", str(output), *flags]
        started = time.monotonic()
        process, told = _job(recipe, 1, *arguments, "--play", *flags, "--rounds", str(rounds + 1))
        printed, ends = [], []
        for line in process.stdout or ():
            printed.append(line)
            if ROUND.match(line):
                ends.append(time.monotonic())
        _finished(process, printed)
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    spent = {name: [line[name] for line in lines] for name in ("seconds", "probe_seconds", "evaluate_seconds")}
    return _read(told), {
        "rounds": rounds,
        "steps_per_round": lines[0]["steps"],
        "load_seconds": _read(output / "summary.json")["load_seconds"],
        "start_seconds": ends[0] - started - sum(values[0] for values in spent.values()),
        "seconds": ends[-1] - ends[0],
        "train_seconds": sum(spent["seconds"][1:]),
        "probe_seconds": sum(spent["probe_seconds"][1:]),
        "evaluate_seconds": sum(spent["evaluate_seconds"][1:]),
    }


def _job(recipe: Path, ranks: int, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    told = recipe.with_suffix(".json")
    return _launch("benchmarks/step_time/job.py", str(recipe), "--json", str(told), *arguments, ranks=ranks), told


def _finished(process: subprocess.Popen[str], printed: list[str]) -> None:
    """Wait for its end. Raises SystemExit with the end of what it printed unless that is a good one."""
    if process.wait():
        sys.exit("".join(printed[-40:]) + f"{process.args} ended with {process.returncode}")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
