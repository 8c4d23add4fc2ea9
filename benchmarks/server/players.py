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
from worker.client.client import BanditClient
from worker.client.journal import Journal

RUN = "load"
SPEC = pb.RunSpec(
    arms=[pb.Arm(name=name, modules=[name]) for name in ("image", "text", "decoder")],
    policy=pb.PolicySpec(name="optima"),
    seed=7,
    reward=pb.REWARD_KIND_RELATIVE,
    train=pb.TRAIN_MODE_FORCED,
    steps_per_round=1,
)
# Seconds within which everything undelivered must have found its way once the server is back.
DELIVERY = 120.0


class Player:
    """One worker on a thread of its own, playing whenever `going` is set."""

    def __init__(self, address: str, directory: Path, name: str, patience: float, seconds: float) -> None:
        journal = Journal(directory / f"{name}.jsonl")
        self.name = name
        self.client = BanditClient(address, run=RUN, worker=name, spec=SPEC, journal=journal, patience=patience)
        self.going = threading.Event()
        self.told: dict[int, tuple[str, float]] = {}
        self._resting = threading.Event()
        self._ending = threading.Event()
        self._seconds = seconds
        self._next_round = self.client.start().next_round
        self._thread = threading.Thread(target=self._play, name=name, daemon=True)
        self._thread.start()

    def rest(self) -> int:
        """Return once nothing is left to deliver; how much is, should time run out."""
        self.going.clear()
        self._resting.wait()
        return self.client.flush(DELIVERY)

    def end(self) -> None:
        """Stop for good."""
        self._ending.set()
        self.going.set()
        self._thread.join()
        self.client.close()

    def _play(self) -> None:
        while True:
            self._resting.set()
            self.going.wait()
            self._resting.clear()
            if self._ending.is_set():
                return
            round = self._next_round
            pull = self.client.select(round)
            assert pull is not None, "nobody finishes the run"
            self._ending.wait(self._seconds)
            after = 1 - (round + 1) / 1e6
            measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=after, steps=1, seconds=0.1)
            self.client.report(round, pull.arm, pull.chosen_by, measured, next_round=round + 1)
            self.told[round] = (pull.arm, after)
            self._next_round += 1


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
