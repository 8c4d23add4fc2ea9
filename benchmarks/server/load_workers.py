"""Workers without training, for load: ``python -m benchmarks.server.load_workers ADDRESS DIRECTORY --workers N``.

They are real worker clients in one process, each with a journal in the directory, all in run `load`. A round lasts
`--round-seconds`. Commands are lines of standard input: `pause` ends the rounds in progress, delivers all reports, and
prints every report since the start as JSON; `go` continues; the end of input ends the process.
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
# Seconds within which all reports must be delivered once the server is back.
DELIVERY = 120.0


class LoadWorker:
    """A worker on a thread of its own, which plays while `playing` is set.

    Attributes:
        reports: The reported arm and loss by round.
    """

    def __init__(self, address: str, directory: Path, name: str, patience: float, seconds: float) -> None:
        journal = Journal(directory / f"{name}.jsonl")
        self.name = name
        self.client = BanditClient(address, run=RUN, worker=name, spec=SPEC, journal=journal, patience=patience)
        self.playing = threading.Event()
        self.reports: dict[int, tuple[str, float]] = {}
        self._paused = threading.Event()
        self._stopping = threading.Event()
        self._seconds = seconds
        self._next_round = self.client.start().next_round
        self._thread = threading.Thread(target=self._play, name=name, daemon=True)
        self._thread.start()

    def pause(self) -> int:
        """Stop playing and deliver all reports; return how many are left when time runs out."""
        self.playing.clear()
        self._paused.wait()
        return self.client.flush(DELIVERY)

    def stop(self) -> None:
        """End the worker."""
        self._stopping.set()
        self.playing.set()
        self._thread.join()
        self.client.close()

    def _play(self) -> None:
        while True:
            self._paused.set()
            self.playing.wait()
            self._paused.clear()
            if self._stopping.is_set():
                return
            round = self._next_round
            pull = self.client.select(round)
            assert pull is not None, "the run was finished during the benchmark"
            self._stopping.wait(self._seconds)
            after = 1 - (round + 1) / 1e6
            measured = pb.Measurement(outcome=pb.OUTCOME_MEASURED, before=1.0, after=after, steps=1, seconds=0.1)
            self.client.report(round, pull.arm, pull.chosen_by, measured, next_round=round + 1)
            self.reports[round] = (pull.arm, after)
            self._next_round += 1


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.server.load_workers", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("address", help="host:port of the bandit server")
    parser.add_argument("directory", type=Path, help="the directory of the journals")
    parser.add_argument("--workers", type=int, default=4, help="number of workers (default: 4)")
    parser.add_argument("--name", default="w", help="prefix of the workers' names (default: w)")
    parser.add_argument(
        "--patience", type=float, default=0.5, help="seconds that a worker waits once per outage (default: 0.5)"
    )
    parser.add_argument("--round-seconds", type=float, default=0.1, help="duration of a round (default: 0.1)")
    arguments = parser.parse_args()
    workers = [
        LoadWorker(
            arguments.address,
            arguments.directory,
            f"{arguments.name}{number}",
            arguments.patience,
            arguments.round_seconds,
        )
        for number in range(arguments.workers)
    ]
    for line in sys.stdin:
        if line.strip() == "go":
            for worker in workers:
                worker.playing.set()
        else:
            undelivered = sum(worker.pause() for worker in workers)
            reports: dict[str, Any] = {worker.name: worker.reports for worker in workers}
            print(json.dumps({"undelivered": undelivered, "reports": reports}), flush=True)
    for worker in workers:
        worker.stop()


if __name__ == "__main__":
    main()
