"""What a worker writes about itself: metrics.jsonl, a line per round, and summary.json at the end."""

import json
import math
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worker.probe import Evaluation


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
        probe_seconds: Seconds of measuring.
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


class Record:
    """Writes the two files into the output directory; rank 0 only."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lines = (directory / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)
        self.pulls: Counter[str] = Counter()

    def add(self, record: RoundRecord) -> None:
        """Append one round."""
        self.pulls[record.arm] += 1
        self._lines.write(json.dumps(_finite(asdict(record)), allow_nan=False) + "\n")

    def summarise(self, summary: dict[str, Any]) -> None:
        """Write summary.json, whole or not at all."""
        path = self._directory / "summary.json"
        text = json.dumps(_finite(summary | {"pulls": dict(self.pulls)}), indent=2, allow_nan=False)
        draft = path.with_suffix(".tmp")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(path)

    def close(self) -> None:
        self._lines.close()


def _finite(value: Any) -> Any:
    """The value with None for numbers that JSON cannot hold."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
