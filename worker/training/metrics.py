"""What a worker writes about itself: metrics.jsonl, a line per round, and summary.json at the end."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.evaluation.probe import Evaluation
from worker.files import replace_text

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class RoundRecord:
    """One line of metrics.jsonl.

    Attributes:
        round: The worker's round, from 0.
        arm: The arm that was trained.
        chosen_by: ``policy``, ``fallback`` or ``tail``.
        before: Bandit loss before the round.
        after: Bandit loss after it; None if it was not finite.
        reward: The reward as the server counts it; None in the tail and while the server is away.
        train_loss: Mean training loss of its steps.
        train_terms: Mean unweighted terms of its steps.
        probe_terms: Unweighted terms on the probe after it.
        evaluation: End-to-end loss, terms and task metrics, in the rounds that measure them.
        steps: Optimizer steps.
        step: Optimizer steps since the start of the job, this round included.
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
    train_loss: float | None
    train_terms: dict[str, float]
    probe_terms: dict[str, float]
    evaluation: Evaluation | None
    steps: int
    step: int
    seconds: float
    probe_seconds: float
    evaluate_seconds: float


class Record:
    """Writes the two files into the output directory; rank 0 only.

    Args:
        directory: Where they are.
        first: The round that is played next. What an earlier process wrote of it and of later rounds is taken out:
            they are played again.
    """

    def __init__(self, directory: Path, first: int = 0) -> None:
        self._directory = directory
        self.pulls: Counter[str] = Counter()
        self.diverged = 0
        self.seconds = dict.fromkeys(("train_seconds", "probe_seconds", "evaluate_seconds"), 0.0)
        path = directory / METRICS_FILE
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []:
            # Lines are in order; one that a kill has torn is of a round that is played again.
            if not line.endswith("\n") or json.loads(line)["round"] >= first:
                break
            kept.append(line)
            self._count(json.loads(line))
        replace_text(path, "".join(kept))
        self._lines = path.open("a", encoding="utf-8", buffering=1)

    def add(self, record: RoundRecord) -> None:
        """Append one round."""
        self._count(asdict(record))
        self._lines.write(json.dumps(_finite(asdict(record)), allow_nan=False) + "\n")

    def summarise(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        counts: dict[str, Any] = {"pulls": dict(self.pulls), "diverged_rounds": self.diverged}
        counts |= {name: round(seconds, 3) for name, seconds in self.seconds.items()}
        if self.seconds["train_seconds"]:
            counts["probe_share"] = round(self.seconds["probe_seconds"] / self.seconds["train_seconds"], 4)
        text = json.dumps(_finite(summary | counts), indent=2, allow_nan=False)
        replace_text(self._directory / "summary.json", text + "\n")

    def close(self) -> None:
        self._lines.close()

    def _count(self, record: dict[str, Any]) -> None:
        self.pulls[record["arm"]] += 1
        self.diverged += record["after"] is None
        self.seconds["train_seconds"] += record["seconds"]
        self.seconds["probe_seconds"] += record["probe_seconds"]
        self.seconds["evaluate_seconds"] += record["evaluate_seconds"]


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
