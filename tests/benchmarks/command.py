"""Runs a benchmark as a user does."""

import subprocess
import sys

from tests.launch import ROOT


def benchmark(name: str, *arguments: str, status: int = 0) -> str:
    """Run ``python -m benchmarks.NAME …`` and return its output, or its error output if `status` is not 0."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if status else done.stdout
