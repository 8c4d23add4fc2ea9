"""Where a job stands: with the engine's own state and the journal, everything that a resumed process needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from worker.client.journal import Pull
from worker.data.base import Cursor
from worker.evaluation.probe import Evaluation, Terms

OWN = ("rows", "cursors", "random", "round_start")
"""What every rank has of its own; the rest is the same on all."""


@dataclass
class LoopState:
    """Saved between two optimizer steps, also in the middle of a round.

    Attributes:
        round: The round that is played, or the next one.
        step: Optimizer steps taken of it.
        pull: Its arm, once it is chosen.
        position: Batches that every rank has taken from its training data.
        terms: The probe's terms as last measured.
        seconds: Seconds of training spent on the open round.
        diverged: Rounds in a row, up to now, whose loss was not finite.
        elapsed: Seconds of the whole job, those of earlier processes included.
        teacher_metrics: The teacher's task metrics, measured once.
        start: The student as it was before round 0.
        rows: This rank's loss and terms by name, scalars, of every step of the open round.
        cursors: Where this rank's lanes of streamed training data go on; filled when it is saved.
        random: This rank's random number generators; filled when it is saved.
        round_start: What `RoundStart.state` gives for the open round; filled when it is saved.
    """

    round: int = 0
    step: int = 0
    pull: Pull | None = None
    position: int = 0
    terms: Terms = field(default_factory=dict)
    seconds: float = 0.0
    diverged: int = 0
    elapsed: float = 0.0
    teacher_metrics: dict[str, float] = field(default_factory=dict)
    start: Evaluation | None = None
    rows: list[dict[str, Tensor]] = field(default_factory=list)
    cursors: dict[int, Cursor] = field(default_factory=dict)
    random: dict[str, Any] = field(default_factory=dict)
    round_start: dict[str, Any] | None = None

    def next_round(self) -> None:
        """The open round is over."""
        self.round += 1
        self.step = 0
        self.pull = None
        self.seconds = 0.0
        self.rows = []
        self.round_start = None

    def common(self) -> dict[str, Any]:
        """What is the same on every rank, as plain values."""
        state = {name: value for name, value in vars(self).items() if name not in OWN}
        return state | {"pull": self.pull and asdict(self.pull), "start": self.start and asdict(self.start)}

    def own(self) -> dict[str, Any]:
        """What this rank alone knows, as plain values and tensors."""
        return {name: getattr(self, name) for name in OWN}

    @classmethod
    def of(cls, common: dict[str, Any], own: dict[str, Any]) -> LoopState:
        """The state that gave these."""
        pull, start = common["pull"], common["start"]
        objects = {"pull": pull and Pull(**pull), "start": start and Evaluation(**start)}
        return cls(**{**common, **own, **objects})
