"""The state of the training loop: with the engine's state and the journal, all that a resumed process needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from worker.client.journal import Pull
from worker.data.base import Cursor
from worker.evaluation.probe import Evaluation, Terms

OF_RANK = ("rows", "cursors", "random", "round_start")
"""The fields that differ between ranks."""


@dataclass
class LoopState:
    """The state between two optimizer steps, also in the middle of a round.

    Attributes:
        round: The round being played, or the next one.
        step: Its optimizer steps so far.
        pull: Its arm, once chosen.
        position: Batches that every rank has taken from its training data.
        terms: The probe's terms as last measured.
        seconds: Seconds of training in the round so far.
        diverged: Rounds in a row, up to now, whose loss was not finite.
        elapsed: Seconds of the whole job, including earlier processes.
        teacher_metrics: The teacher's task metrics, measured once.
        start: The student's evaluation before round 0.
        rows: This rank's loss and terms by name, scalars, for every step of the round.
        cursors: Where this rank's lanes of streamed training data continue; set when the state is saved.
        random: This rank's random number generators; set when the state is saved.
        round_start: `Rollback.state` of the round; set when the state is saved.
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
        """Go to the next round."""
        self.round += 1
        self.step = 0
        self.pull = None
        self.seconds = 0.0
        self.rows = []
        self.round_start = None

    def common(self) -> dict[str, Any]:
        """Return the fields that are the same on every rank, as plain values."""
        state = {name: value for name, value in vars(self).items() if name not in OF_RANK}
        return state | {"pull": self.pull and asdict(self.pull), "start": self.start and asdict(self.start)}

    def of_rank(self) -> dict[str, Any]:
        """Return the fields of this rank, as plain values and tensors."""
        return {name: getattr(self, name) for name in OF_RANK}

    @classmethod
    def from_saved(cls, common: dict[str, Any], of_rank: dict[str, Any]) -> LoopState:
        """Return the state from the results of `common` and `of_rank`."""
        pull, start = common["pull"], common["start"]
        objects = {"pull": pull and Pull(**pull), "start": start and Evaluation(**start)}
        return cls(**{**common, **of_rank, **objects})
