"""The interface of a store, and the promises that callers may rely on.

A store holds, for every run, a history: events with versions 1, 2, 3, … without gaps, each of them bytes that the store
does not interpret; and the run's incarnation.

- **Append is compare-and-append.** Events are added, all or none, only if the run's incarnation, version and last event
  are those that the caller expects and the run was not deleted. Otherwise nothing changes, and the result says so. Of
  two callers with the same version one succeeds, whichever process or machine they are on.
- **Acknowledged means stored**: as durable as the store behind it is configured to be.
- **Reads are consistent**: one call sees incarnation, version and events of one moment.
- **An unknown outcome is an error.** When the store does not answer in time, StoreUnavailable is raised, and the
  append may or may not have happened. Every command of a run is idempotent, so its caller tries again.
- **Snapshots** are a cache: they may be missing, older than the history, or of another one.
- **Heartbeats** are not history: they expire, and losing them does no harm.

Every method may be called from any task of the event loop that opened the store, concurrently with any other. Every
method raises StoreUnavailable, and no other error of its own, within its deadline.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

# How long a worker counts as alive after a heartbeat: workers send one every 3 s, so three may be lost.
ALIVE_SECONDS = 12.0

AppendResult = Literal["stored", "deleted", "changed"]


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a run's history.

    Attributes:
        version: The version of its last event; 0 for a run that does not exist.
        incarnation: The run's incarnation; empty for a run that does not exist.
        deleted: Whether the run has a tombstone.
        last: The fingerprint of its last event, empty where it does not matter. It takes no part in comparisons. A
            store that has lost its end may have got other events of the same versions since.
    """

    version: int
    incarnation: str
    deleted: bool
    last: str = field(default="", compare=False)


def fingerprint(event: bytes) -> str:
    """Return a digest that identifies a serialized event."""
    return hashlib.sha1(event, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Page:
    """Events after some version, in order, and the head of the run at that moment."""

    head: Head
    events: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A worker's last heartbeat.

    Attributes:
        age: Seconds since then, or since the worker's last call if that was later.
        request: The serialized HeartbeatRequest; empty before the first one.
    """

    age: float
    request: bytes

    @property
    def alive(self) -> bool:
        """Whether the worker counts as alive."""
        return self.age < ALIVE_SECONDS


class Store(ABC):
    """A store of histories; the head of this file has what holds for all of its methods."""

    @abstractmethod
    async def append(
        self,
        run: str,
        expected: Head,
        events: Sequence[bytes],
        *,
        incarnation: str = "",
        worker: str = "",
    ) -> AppendResult:
        """Append events to the expected head.

        Args:
            run: The run's name.
            expected: The head that the run must have.
            events: Serialized events.
            incarnation: The run's incarnation from then on; by default it stays.
            worker: The worker whose heartbeat this renews, if any.

        Returns:
            "stored"; "deleted" if the run has a tombstone; "changed" if it has another head.
        """

    @abstractmethod
    async def is_head(self, run: str, head: Head) -> bool:
        """Return whether the run has this head and is not deleted, for a fraction of the cost of `read`."""

    @abstractmethod
    async def read(self, run: str, after: int, limit: int) -> Page:
        """Return at most `limit` events after a version; an empty page for a run that does not exist."""

    @abstractmethod
    async def read_backwards(self, run: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """Return at most `limit` events with versions up to and including `before`, newest first."""

    @abstractmethod
    async def heads(self, runs: Sequence[str]) -> list[Head]:
        """Return the heads of many runs, in their order."""

    @abstractmethod
    async def register(self, run: str, created: float) -> None:
        """Add a run to `names`, before its first event is appended. A run that is there keeps its time."""

    @abstractmethod
    async def names(self, limit: int, after: tuple[float, str] | None = None) -> list[tuple[float, str]]:
        """Return (creation, name) of at most `limit` runs, newest first, starting after one of them."""

    @abstractmethod
    async def delete(self, run: str) -> None:
        """Remove the run's history and leave a tombstone. Idempotent."""

    @abstractmethod
    async def save_snapshot(self, run: str, fields: Mapping[str, bytes]) -> None:
        """Replace the fields of the run's snapshot."""

    @abstractmethod
    async def load_snapshots(self, runs: Sequence[str], fields: Sequence[str]) -> list[dict[str, bytes]]:
        """Return, of each run's snapshot, those of these fields that it has."""

    @abstractmethod
    async def record_heartbeat(self, run: str, worker: str, request: bytes | None = None) -> None:
        """Record a worker's heartbeat now; without a serialized request the last one stays."""

    @abstractmethod
    async def heartbeats(self, workers: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Heartbeat]:
        """Return the last heartbeats of those (run, worker) that have one."""

    @abstractmethod
    async def ping(self) -> None:
        """Return if the store answers."""

    @abstractmethod
    async def close(self) -> None:
        """Close every connection. Idempotent."""
