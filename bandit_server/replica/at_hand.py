"""A run that is at hand: its state, where the store said that it stands, and who waits for it."""

from __future__ import annotations

import asyncio
import math
import time

from bandit_server.run.state import RunState
from bandit_server.store.base import Head


class Run:
    """A run as this replica has it.

    Attributes:
        state: As of the last event that this replica has seen.
        head: Where the store said the run stood, then.
        lock: Held while the state changes.
        appended: Set when this replica appends; there is one only while somebody waits.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.forget()
        self.lock = asyncio.Lock()
        self.appended: asyncio.Event | None = None
        # When the run last moved on and was last asked for, by the monotonic clock.
        self.moved = self.used = time.monotonic()

    def forget(self) -> None:
        """Know nothing of it any more, or not yet."""
        self.state = RunState(self.name)
        self.head = Head(0, "", False)
        # The version of the last snapshot.
        self.kept = 0
        # Until when, by the monotonic clock, each worker counts as alive; and when the store was asked last.
        self.alive: dict[str, float] = {}
        self.alive_asked = -math.inf

    def tell(self) -> None:
        """Wake everyone who waits for something new."""
        self.moved = time.monotonic()
        if self.appended is not None:
            self.appended.set()
            self.appended = None
