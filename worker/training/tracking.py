"""Rounds as curves: TensorBoard, W&B and CSV files, through DeepSpeed's monitors.

    tracking: {tensorboard: true, csv: true, wandb: {project: small-coca}}

``metrics.jsonl`` is the record, and a tracker is a view of it: a resumed job sends the earlier rounds to every tracker
again, into a fresh directory, so that no round appears twice. Every tracker has a thread of its own. Training never
waits for one; a tracker that fails gets no more rounds, and a warning says so.
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

from worker.engine.monitors import create_monitor
from worker.recipe.sections import TrackingRecipe
from worker.training.metrics import METRICS_FILE, RoundRecord

Event = tuple[str, float, int]
"""A curve's name, its value, and the optimizer steps of the job so far."""

BEHIND = 1000
"""Rounds that may wait for a tracker; further ones are dropped."""
PATIENCE = 30.0
"""Seconds that a job waits at its end for a tracker to take the remaining rounds."""

log = logging.getLogger(__name__)


def events(record: Mapping[str, Any]) -> Iterator[Event]:
    """Yield a round, a line of metrics.jsonl, as points of curves; values that are not finite are left out."""
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
    """A sink that writes rounds to one monitor, in a thread of its own.

    Args:
        name: Its name in the recipe.
        create: Creates the monitor: an object with ``write_events``.
        history: Earlier rounds, as lines of metrics.jsonl; they are written first.
        finish: Called after the last round.
    """

    def __init__(
        self,
        name: str,
        create: Callable[[], Any],
        history: Sequence[Mapping[str, Any]] = (),
        finish: Callable[[], object] | None = None,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._create, self._history, self._finish = create, history, finish
        self._rounds: queue.Queue[Mapping[str, Any] | None] = queue.Queue(BEHIND)
        self._dropped = False

    def run(self) -> None:
        """Write rounds until there are no more, or until the monitor fails."""
        try:
            monitor = self._create()
            for record in chain(self._history, iter(self._rounds.get, None)):
                monitor.write_events(list(events(record)))
            if self._finish is not None:
                self._finish()
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s failed and gets no more rounds: %s. Training continues, and %s has every round", self.name,
                        reason, METRICS_FILE)  # fmt: skip

    def add(self, record: RoundRecord) -> None:
        """Queue one round; returns at once."""
        try:
            self._rounds.put_nowait(asdict(record))
        except queue.Full:
            if self.is_alive() and not self._dropped:
                log.warning("%s is %d rounds behind, and some are dropped. %s has every round", self.name, BEHIND,
                            METRICS_FILE)  # fmt: skip
            self._dropped = True

    def close(self, patience: float = PATIENCE) -> None:
        """Wait until the queued rounds are written, at most so many seconds."""
        if self.is_alive():
            try:
                self._rounds.put(None, timeout=patience)
            except queue.Full:
                pass
            else:
                self.join(patience)
        if self.is_alive():
            log.warning("%s takes too long, and may lack the last rounds; %s has them", self.name, METRICS_FILE)


def start_trackers(recipe: TrackingRecipe, output: Path, run: str) -> tuple[Tracker, ...]:
    """Start the trackers of a recipe; on rank 0, once there is a process group.

    Args:
        recipe: The recipe's section.
        output: The worker's output directory, whose metrics.jsonl holds the earlier rounds.
        run: The run's name.
    """
    directory = output / "tracking"
    configuration = recipe.configuration(directory, run)
    if not configuration:
        return ()
    with (output / METRICS_FILE).open(encoding="utf-8") as file:
        history = [json.loads(line) for line in file]
    trackers = []
    for name, config in configuration.items():
        shutil.rmtree(directory / name, ignore_errors=True)
        finish = _finish_wandb if name == "wandb" else None
        trackers.append(Tracker(name, partial(create_monitor, name, config), history, finish))
    if recipe.wandb is not None:
        # DeepSpeed's monitor passes none of these on.
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
