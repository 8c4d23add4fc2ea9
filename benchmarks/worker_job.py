"""A job of the worker as its users run it: DeepSpeed's launcher, one rank, and a bandit server of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from bandit_server.config import Settings
from bandit_server.server import Server
from benchmarks.step_time.run import launch


def run(output: Path, store: Path, *flags: str) -> dict[str, Any]:
    """Run a job to its end and return its summary; end this process if the job fails.

    Args:
        output: The job's output directory.
        store: The server's directory.
        flags: Flags of the worker.
    """
    with Server(Settings(port=0, dashboard_port=None, data_dir=store)) as server:
        process = launch(
            "worker/train.py", "--bandit-addr", server.address, "--output-dir", str(output), *flags, ranks=1
        )
        printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{printed[-4000:]}\nthe job in {output} ended with {process.returncode}")
    summary: dict[str, Any] = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return summary
