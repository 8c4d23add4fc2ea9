"""Starts jobs as a user does: through DeepSpeed's launcher, and the worker with a bandit server."""

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


def launch(script: str, *arguments: str, ranks: int) -> subprocess.Popen[str]:
    """Start ``deepspeed SCRIPT ARGUMENTS`` with one thread per rank."""
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
    """Run `benchmarks/step_time/job.py` and return its results."""
    process, results = _start(recipe, ranks, *arguments)
    _wait(process, list(process.stdout or ()))
    return _read(results)


def job_and_run(
    recipe: Path, flags: Sequence[str], rounds: int, directory: Path, *arguments: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a worker with a bandit server, then `benchmarks/step_time/job.py`, in one launch of one rank.

    Args:
        recipe: The recipe of both.
        flags: Further flags of the worker.
        rounds: Rounds of the worker, beside the first, which is not counted.
        directory: Where the worker and the server write.
        arguments: Further arguments of the job.

    Returns:
        The job's results, and where the time of the worker's run went.
    """
    output = directory / "run"
    settings = Settings(port=0, dashboard_port=None, data_dir=directory / "store")
    with Server(settings) as server:
        flags = ["--bandit-addr", server.address, "--recipe", str(recipe), "--output-dir", str(output), *flags]
        started = time.monotonic()
        process, results = _start(recipe, 1, *arguments, "--play", *flags, "--rounds", str(rounds + 1))
        printed, round_ends = [], []
        for line in process.stdout or ():
            printed.append(line)
            if ROUND.match(line):
                round_ends.append(time.monotonic())
        _wait(process, printed)
    records = [json.loads(line) for line in (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = {name: [record[name] for record in records] for name in ("seconds", "probe_seconds", "evaluate_seconds")}
    return _read(results), {
        "rounds": rounds,
        "steps_per_round": records[0]["steps"],
        "load_seconds": _read(output / "summary.json")["load_seconds"],
        "start_seconds": round_ends[0] - started - sum(values[0] for values in seconds.values()),
        "seconds": round_ends[-1] - round_ends[0],
        "train_seconds": sum(seconds["seconds"][1:]),
        "probe_seconds": sum(seconds["probe_seconds"][1:]),
        "evaluate_seconds": sum(seconds["evaluate_seconds"][1:]),
    }


def _start(recipe: Path, ranks: int, *arguments: str) -> tuple[subprocess.Popen[str], Path]:
    results = recipe.with_suffix(".json")
    return launch("benchmarks/step_time/job.py", str(recipe), "--json", str(results), *arguments, ranks=ranks), results


def _wait(process: subprocess.Popen[str], printed: list[str]) -> None:
    """Wait for the process to end; raise SystemExit with the end of its output if it failed."""
    if process.wait():
        sys.exit("".join(printed[-40:]) + f"{process.args!r} ended with {process.returncode}")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
