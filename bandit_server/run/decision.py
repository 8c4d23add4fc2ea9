"""What a command of a run comes to: events to append, and the answer once they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T", covariant=True)


@dataclass(slots=True)
class Decision(Generic[T]):
    """A command's outcome.

    Attributes:
        answer: What the caller is told once the events are stored.
        events: What is to be appended; none if the command changes nothing.
        later: If one of them is a pull, its fallback arms as indices: the fold need not look them up.
    """

    answer: T
    events: Sequence[pb.Event] = ()
    later: Sequence[int] | None = None

    @property
    def incarnation(self) -> str:
        """The incarnation that these events start; empty if they start none."""
        started = ""
        for event in self.events:
            match event.WhichOneof("kind"):
                case "run_created":
                    started = event.run_created.incarnation
                case "run_restored":
                    started = event.run_restored.incarnation
        return started
