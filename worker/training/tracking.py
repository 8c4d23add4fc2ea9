"""Rounds as curves: TensorBoard, W&B and CSV files, through DeepSpeed's monitors.

    tracking: {tensorboard: true, csv: true, wandb: {project: small-coca}}

``metrics.jsonl`` is the record, and a tracker a view of it: a job that goes on after an interruption shows each tracker
the rounds that are behind once more, in a fresh place, so that no round is there twice. Every tracker has a thread of
its own. Training never waits for one; one that fails is left alone, with a sentence.
"""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from worker.engine.monitors import monitor
from worker.recipe.sections import TrackingRecipe
from worker.training.metrics import METRICS_FILE, RoundRecord

Event = tuple[str, float, int]
"""A curve's name, its value, and the job's optimizer steps by then."""

BEHIND = 1000
"""Rounds that a tracker may be behind by; later ones are left out."""
PATIENCE = 30.0
"""Seconds that a job waits at its end for a tracker to take the rest."""

log = logging.getLogger(__name__)


def events(record: Mapping[str, Any]) -> Iterator[Event]:
    """One round, a line of metrics.jsonl, as points of curves; what has no finite value is no point."""
    curves: dict[str, float | None] = {
        "round": record["round"],
        "reward": record["reward"],
        f"reward/{record['arm']}": record["reward"],
        "bandit_loss/before": record["before"],
        "bandit_loss/after": record["after"],
        "train/loss": record["train_loss"],
        "seconds/train": record["seconds"],
        "seconds/probe": record["probe_seconds"],
    }
    evaluation = record["evaluation"] or {"terms": {}, "metrics": {}, "total_loss": None}
    curves["evaluation/total_loss"] = evaluation["total_loss"]
    for group, named in (
        ("train", record["train_terms"]),
        ("probe", record["probe_terms"]),
        ("evaluation", evaluation["terms"]),
        ("metrics", evaluation["metrics"]),
    ):
        curves |= {f"{group}/{name}": value for name, value in named.items()}
    for name, value in curves.items():
        if value is not None and math.isfinite(value):
            yield name, float(value), record["step"]


class Tracker(threading.Thread):
    """Writes rounds to one tracker, in a thread of its own.

    Args:
        name: What the recipe calls it.
        make: Makes the tracker: something with ``write_events``.
        history: Rounds that are behind.
        finish: Called after the last round.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Any],
        history: Sequence[Mapping[str, Any]] = (),
        finish: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._make, self._history, self._finish = make, history, finish
        self._rounds: queue.Queue[Mapping[str, Any] | None] = queue.Queue(BEHIND)
        self._dropped = False

    def run(self) -> None:
        try:
            monitor = self._make()
            for record in chain(self._history, iter(self._rounds.get, None)):
                monitor.write_events(list(events(record)))
            if self._finish is not None:
                self._finish()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s is told nothing more: %s. Training goes on, and %s has every round", self.name, reason,
                        METRICS_FILE)  # fmt: skip

    def tell(self, record: RoundRecord) -> None:
        """Hand over one round; returns at once."""
        try:
            self._rounds.put_nowait(asdict(record))
        except queue.Full:
            if self.is_alive() and not self._dropped:
                log.warning("%s is %d rounds behind: it is not told of some. %s has every round", self.name, BEHIND,
                            METRICS_FILE)  # fmt: skip
            self._dropped = True

    def close(self) -> None:
        """No more rounds: wait, for a while, until it has taken those it was told."""
        if self.is_alive():
            try:
                self._rounds.put(None, timeout=PATIENCE)
            except queue.Full:
                pass
            else:
                self.join(PATIENCE)
        if self.is_alive():
            log.warning("%s takes too long, and may lack the last rounds; %s has them", self.name, METRICS_FILE)


def start(recipe: TrackingRecipe, output: Path, run: str) -> tuple[Tracker, ...]:
    """Start the trackers that a recipe asks for; on rank 0, once there is a process group.

    Args:
        output: The worker's output directory, whose metrics.jsonl holds the rounds that are behind.
        run: The run's name.
    """
    directory = output / "tracking"
    wanted = recipe.configuration(directory, run)
    if not wanted:
        return ()
    with (output / METRICS_FILE).open(encoding="utf-8") as file:
        history = [json.loads(line) for line in file]
    trackers = []
    for name, config in wanted.items():
        shutil.rmtree(directory / name, ignore_errors=True)
        trackers.append(
            Tracker(name, partial(monitor, name, config), history, _finish_wandb if name == "wandb" else None)
        )
    if recipe.wandb is not None:
        # DeepSpeed's monitor passes on none of these.
        settings = {"WANDB_DIR": str(directory), "WANDB_NAME": run, "WANDB_SILENT": "true"}
        settings |= {} if recipe.wandb.online else {"WANDB_MODE": "offline"}
        for setting, value in settings.items():
            os.environ.setdefault(setting, value)
        directory.mkdir(exist_ok=True)
    for tracker in trackers:
        tracker.start()
    return tuple(trackers)


def _finish_wandb() -> None:
    import wandb

    wandb.finish()
