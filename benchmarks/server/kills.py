"""A server killed at random moments under load: ``python -m benchmarks.server.kills --kills 50 --json kills.json``.

Worker clients play without a pause while the server is killed (SIGKILL, together with its embedded store) and restarted
again and again. It prints how long after each start the first new reward was stored, and at the end how many of the
reported rewards were stored. The exit status is 1 unless each of them was stored exactly once.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shlex
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.flags import whole_number
from benchmarks.server.load import ROOT, Load, Observer, count_outcomes

# The longest time between two kills, in seconds.
MAX_SECONDS_BETWEEN_KILLS = 3.0


class KilledServer:
    """`optima serve` on one port, with an embedded store or a Redis."""

    def __init__(self, directory: Path, redis_url: str | None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.address = f"127.0.0.1:{port}"
        store = ["--redis-url", redis_url] if redis_url else ["--data-dir", str(directory / "store")]
        self._command = [sys.executable, "-m", "bandit_server.cli", "serve", "--port", port, "--no-dashboard", *store]
        self._log = directory / "server.log"

    def start(self) -> None:
        """Start the server without waiting for it."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        """End the server with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End the server with SIGTERM."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def measure(kills: int, workers: int, redis_url: str | None, seed: int) -> dict[str, Any]:
    """Kill the server `kills` times; return the recovery times and the outcome of every reward, for JSON."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="optima-kills-") as name:
        directory = Path(name)
        server = KilledServer(directory, redis_url)
        server.start()
        observer = Observer(server.address)
        answers: list[float] = []
        recoveries: list[float] = []
        try:
            _wait_until_it_listens(server.address)
            with Load(server.address, directory, workers) as load:
                load.go()
                observer.wait_for_progress()
                for number in range(kills):
                    time.sleep(moments.uniform(0, MAX_SECONDS_BETWEEN_KILLS))
                    server.kill()
                    server.start()
                    began = time.monotonic()
                    observer.wait_for_answer()
                    answers.append(time.monotonic() - began)
                    observer.wait_for_progress()
                    recoveries.append(time.monotonic() - began)
                    print(
                        f"kill {number + 1}: the server responds {answers[-1]:.2f} s after its start, "
                        f"rewards are stored again after {recoveries[-1]:.2f} s"
                    )
                outcomes = count_outcomes(load.pause(), observer.events())
                return {"kills": kills, "answer_seconds": answers, "recovery_seconds": recoveries, **outcomes}
        finally:
            observer.close()
            server.stop()


def _wait_until_it_listens(address: str) -> None:
    """Wait until the server listens: workers do not start without one."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection((host, int(port)), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.kills", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kills", type=whole_number(1), default=50, help="number of kills (default: 50)")
    parser.add_argument("--workers", type=whole_number(1), default=4, help="number of worker clients (default: 4)")
    parser.add_argument("--redis-url", metavar="URL", help="a store that is not killed (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every number to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = parse_arguments(argv)
    results = measure(arguments.kills, arguments.workers, arguments.redis_url, arguments.seed)
    recovery = sorted(results["recovery_seconds"])
    print(
        f"{results['kills']} kills under {arguments.workers} workers, {results['reports']} rewards "
        f"({results['by_the_worker']} of arms that the worker chose by itself): {results['lost']} lost, "
        f"{results['doubled']} doubled, {results['other']} changed, {results['numbers']} pull numbers used twice\n"
        f"recovery: median {statistics.median(recovery):.2f} s, longest {recovery[-1]:.2f} s, including the start"
    )
    if arguments.json:
        content = {
            "command": shlex.join(["python", "-m", "benchmarks.server.kills", *(argv or sys.argv[1:])]),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "workers": arguments.workers,
            "store": "redis" if arguments.redis_url else "embedded",
            **results,
        }
        arguments.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if any(results[what] for what in ("lost", "doubled", "other", "numbers")):
        sys.exit("not every reward was stored exactly once")


if __name__ == "__main__":
    main()
