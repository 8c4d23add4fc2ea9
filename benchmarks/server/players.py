"""Workers that train nothing, for load: ``python -m benchmarks.server.players ADDRESS DIRECTORY --workers N``.

Real worker clients in one process, each with a journal in the directory, all in run `load`. A round lasts as long as
`--round-seconds` says. Commands come on standard input, one a line: `pause` ends the rounds in progress, delivers what
is undelivered, and prints what every worker has reported since the start; `go` goes on; the end of input ends it.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from pathlib import Path
from typing import Any

from protos.optima.v1 import bandit_pb2 as pb
from worker.client.testing import ScriptedWorker, example_spec, numbered_losses

RUN = "load"
SPEC = example_spec()
# Seconds within which everything undelivered must have found its way once the server is back.
DELIVERY = 120.0


class Player:
    """One worker on a thread of its own, playing whenever `going` is set."""

    def __init__(self, address: str, directory: Path, name: str, patience: float, seconds: float) -> None:
        self.name = name
        self.going = threading.Event()
        self.told: dict[int, tuple[str, float]] = {}
        self._resting = threading.Event()
        self._ending = threading.Event()
        self._seconds = seconds
        self._worker = ScriptedWorker(address, RUN, directory, name, spec=SPEC, train=self._train, patience=patience)
        self._thread = threading.Thread(target=self._play, name=name, daemon=True)
        self._thread.start()

    def rest(self) -> int:
        """Return once nothing is left to deliver; how much is, should time run out."""
        self.going.clear()
        self._resting.wait()
        return self._worker.client.flush(DELIVERY)

    def end(self) -> None:
        """Stop for good."""
        self._ending.set()
        self.going.set()
        self._thread.join()
        self._worker.close()

    def _play(self) -> None:
        while True:
            self._resting.set()
            self.going.wait()
            self._resting.clear()
            if self._ending.is_set():
                return
            (played,) = self._worker.play()
            self.told[self._worker.next_round - 1] = (played.pull.arm, played.measurement.after)

    def _train(self, round: int, arm: str) -> pb.Measurement:
        self._ending.wait(self._seconds)
        return numbered_losses(round, arm)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.players", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("address", help="host:port of the bandit server")
    parser.add_argument("directory", type=Path, help="where the journals are written")
    parser.add_argument("--workers", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--name", default="w", help="what the workers' names begin with (default: w)")
    parser.add_argument("--patience", type=float, default=0.5, help="seconds a worker waits once per outage")
    parser.add_argument("--round-seconds", type=float, default=0.1, help="how long a round lasts (default: 0.1)")
    asked = parser.parse_args()
    players = [
        Player(asked.address, asked.directory, f"{asked.name}{number}", asked.patience, asked.round_seconds)
        for number in range(asked.workers)
    ]
    for line in sys.stdin:
        if line.strip() == "go":
            for player in players:
                player.going.set()
        else:
            undelivered = sum(player.rest() for player in players)
            told: dict[str, Any] = {player.name: player.told for player in players}
            print(json.dumps({"undelivered": undelivered, "told": told}), flush=True)
    for player in players:
        player.end()


if __name__ == "__main__":
    main()
