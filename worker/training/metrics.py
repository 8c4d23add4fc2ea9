"""The record of a round, and the files of records: metrics.jsonl, a line per round, and summary.json at the end."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from worker.evaluation.probe import Evaluation
from worker.files import replace_text

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class RoundRecord:
    """The results of one round; a line of metrics.jsonl.

    Attributes:
        round: The worker's round, from 0.
        arm: The arm that was trained.
        chosen_by: ``policy``, ``fallback`` or ``tail``.
        before: Bandit loss before the round.
        after: Bandit loss after it; None if it was not finite.
        reward: The reward as the server computes it; None in the tail, and while the server is away.
        train_loss: Mean training loss of its steps.
        train_terms: Mean unweighted terms of its steps.
        probe_terms: Unweighted terms on the probe after it.
        evaluation: End-to-end loss, terms and task metrics; None in rounds without an evaluation.
        steps: Optimizer steps of the round.
        step: Optimizer steps since the start of the job, including this round.
        seconds: Seconds of training.
        probe_seconds: Seconds of measuring the bandit loss.
        evaluate_seconds: Seconds of measuring the end-to-end loss and the task metrics.
    """

    round: int
    arm: str
    chosen_by: str
    before: float
    after: float | None
    reward: float | None
    train_loss: float
    train_terms: dict[str, float]
    probe_terms: dict[str, float]
    evaluation: Evaluation | None
    steps: int
    step: int
    seconds: float
    probe_seconds: float
    evaluate_seconds: float


class Sink(Protocol):
    """Takes the records of a job's rounds: a file, a tracker or a terminal. Used on rank 0 only."""

    def add(self, record: RoundRecord) -> None:
        """Take one round."""

    def close(self) -> None:
        """Finish; no round follows."""


class Metrics:
    """Writes metrics.jsonl and summary.json; rank 0 only.

    Args:
        directory: The output directory.
        first: The round that is played next. Lines of this and later rounds, which an earlier process wrote, are
            removed: those rounds are played again.
    """

    def __init__(self, directory: Path, first: int = 0) -> None:
        self._directory = directory
        self._pulls: Counter[str] = Counter()
        self._diverged = 0
        self._seconds = dict.fromkeys(("train_seconds", "probe_seconds", "evaluate_seconds"), 0.0)
        path = directory / METRICS_FILE
        earlier = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
            # Lines are in order; one torn by a kill belongs to a round that is played again.
            if not line.endswith("\n") or json.loads(line)["round"] >= first:
                break
            earlier.append(line)
            self._count(json.loads(line))
        replace_text(path, "".join(earlier))
        self._lines = path.open("a", encoding="utf-8", buffering=1)

    def add(self, record: RoundRecord) -> None:
        """Append one round to metrics.jsonl."""
        self._count(asdict(record))
        self._lines.write(json.dumps(_finite(asdict(record)), allow_nan=False) + "\n")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json atomically: these fields, and the totals over all rounds."""
        totals: dict[str, Any] = {"pulls": dict(self._pulls), "diverged_rounds": self._diverged}
        totals |= {name: round(seconds, 3) for name, seconds in self._seconds.items()}
        if self._seconds["train_seconds"]:
            totals["probe_share"] = round(self._seconds["probe_seconds"] / self._seconds["train_seconds"], 4)
        text = json.dumps(_finite(summary | totals), indent=2, allow_nan=False)
        replace_text(self._directory / "summary.json", text + "\n")

    def close(self) -> None:
        """Close metrics.jsonl."""
        self._lines.close()

    def _count(self, record: dict[str, Any]) -> None:
        self._pulls[record["arm"]] += 1
        self._diverged += record["after"] is None
        self._seconds["train_seconds"] += record["seconds"]
        self._seconds["probe_seconds"] += record["probe_seconds"]
        self._seconds["evaluate_seconds"] += record["evaluate_seconds"]


def _finite(value: Any) -> Any:
    """Return the value with None instead of numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
