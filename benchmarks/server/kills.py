"""A server killed at random moments under load: ``python -m benchmarks.server.kills --kills 50 --json kills.json``.

Worker clients play without a pause while the server is killed (SIGKILL, its embedded store going with it) and started
again, over and over. Printed is how long after each start the first new reward was stored; at the end, what became of
every reward that the workers reported. The exit status is 1 unless each of them was stored exactly once.
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
from benchmarks.server.load import ROOT, Load, Observer, count

# The longest that a server is left alone between two kills, seconds.
LONGEST = 3.0


class Victim:
    """`optima serve` on one port, with its store in a directory or elsewhere."""

    def __init__(self, directory: Path, redis_url: str | None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.address = f"127.0.0.1:{port}"
        store = ["--redis-url", redis_url] if redis_url else ["--data-dir", str(directory / "store")]
        self._command = [sys.executable, "-m", "bandit_server.cli", "serve", "--port", port, "--no-dashboard", *store]
        self._log = directory / "server.log"

    def start(self) -> None:
        """Start it, and do not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it as its user would."""
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()


def measure(kills: int, workers: int, redis_url: str | None, seed: int) -> dict[str, Any]:
    """Kill so often; what it cost."""
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="optima-kills-") as name:
        directory = Path(name)
        victim = Victim(directory, redis_url)
        victim.start()
        observer = Observer(victim.address)
        answers: list[float] = []
        recoveries: list[float] = []
        try:
            _until_it_listens(victim.address)
            with Load(victim.address, directory, workers) as load:
                load.go()
                observer.moves_on()
                for number in range(kills):
                    time.sleep(moments.uniform(0, LONGEST))
                    victim.kill()
                    victim.start()
                    began = time.monotonic()
                    observer.answers()
                    answers.append(time.monotonic() - began)
                    observer.moves_on()
                    recoveries.append(time.monotonic() - began)
                    print(
                        f"kill {number + 1}: {answers[-1]:.2f} s after the start the server answers, "
                        f"{recoveries[-1]:.2f} s after it rewards are stored again"
                    )
                told = load.pause()
                found = count(told, observer.events())
                return {"kills": kills, "answer_seconds": answers, "recovery_seconds": recoveries, **found}
        finally:
            observer.close()
            victim.stop()


def _until_it_listens(address: str) -> None:
    """Return once a server is there: workers do not start without one."""
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


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.kills", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--kills", type=whole_number(1), default=50, help="how many (default: 50)")
    parser.add_argument("--workers", type=whole_number(1), default=4, help="clients that play (default: 4)")
    parser.add_argument("--redis-url", metavar="URL", help="a store that is left alone (default: the embedded one)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    asked = parsed(arguments)
    found = measure(asked.kills, asked.workers, asked.redis_url, asked.seed)
    recovery = sorted(found["recovery_seconds"])
    print(
        f"{found['kills']} kills under {asked.workers} workers, {found['reports']} rewards "
        f"({found['by_the_worker']} of arms that the worker chose itself): {found['lost']} lost, "
        f"{found['doubled']} doubled, {found['other']} changed, {found['numbers']} numbers given twice\n"
        f"recovery: median {statistics.median(recovery):.2f} s, longest {recovery[-1]:.2f} s, the start included"
    )
    if asked.json:
        told = {
            "command": shlex.join(["python", "-m", "benchmarks.server.kills", *(arguments or sys.argv[1:])]),
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "workers": asked.workers,
            "store": "redis" if asked.redis_url else "embedded",
            **found,
        }
        asked.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if any(found[what] for what in ("lost", "doubled", "other", "numbers")):
        sys.exit("not every reward was stored exactly once")


if __name__ == "__main__":
    main()
