"""The outcome of a command of a run: events to append, and the answer once they are stored."""

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
        answer: The answer to the caller once the events are stored.
        events: The events to append; none if the command changes nothing.
        fallback_arms: If one of the events is a pull, its fallback arms as indices, which the fold would look up.
    """

    answer: T
    events: Sequence[pb.Event] = ()
    fallback_arms: Sequence[int] | None = None

    @property
    def incarnation(self) -> str:
        """The incarnation that these events start; empty if they start none."""
        incarnation = ""
        for event in self.events:
            match event.WhichOneof("kind"):
                case "run_created":
                    incarnation = event.run_created.incarnation
                case "run_restored":
                    incarnation = event.run_restored.incarnation
        return incarnation
