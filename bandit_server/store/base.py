"""What callers may assume of a store, whatever stands behind it.

A store keeps, for every run, a history: events with versions 1, 2, 3, … without gaps, each a sequence of bytes that
the store does not look into; and the run's incarnation.

- **Append is compare-and-append.** Events are added, all or none, only if the run's incarnation, version and last event
  are those the caller names and the run was not deleted. Otherwise nothing changes, and the caller is told so. Of two
  callers with the same version one succeeds, whichever process or machine they are on.
- **Acknowledged means stored**: as durable as the store behind it is set to be.
- **Reads are consistent**: one call sees incarnation, version and events of one moment.
- **An unknown outcome is an error.** When the store does not answer in time, StoreUnavailable is raised, and the
  append may or may not have happened. Every command of a run is idempotent, so its caller tries again.
- **Snapshots** are a cache: they may be missing, older than the history, or of another one.
- **Signs of life** are not history: kept for a while, lost without harm.

Every method may be called from any task of the event loop that opened the store, at the same time as any other. Every
method raises StoreUnavailable, and no other error of its own, within its deadline.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

# How long a worker counts as alive after a sign of life: workers beat every 3 s, so three beats may go missing.
ALIVE_SECONDS = 12.0

Standing = Literal["stored", "deleted", "changed"]


@dataclass(frozen=True, slots=True)
class Head:
    """Where a run stands: version 0 and no incarnation when there is none. `last`: the fingerprint of its last event,
    empty where it does not matter: a store that has lost its end may have got other events of the same versions since.
    """

    version: int
    incarnation: str
    deleted: bool
    last: str = field(default="", compare=False)


def fingerprint(event: bytes) -> str:
    """Tells an event from every other one."""
    return hashlib.sha1(event, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Page:
    """Events after some version, in order, and where the run stood at that moment."""

    head: Head
    events: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Pulse:
    """A worker's last sign of life: its age in seconds and its last heartbeat, empty before the first."""

    age: float
    heartbeat: bytes

    @property
    def alive(self) -> bool:
        """Whether the worker counts as alive."""
        return self.age < ALIVE_SECONDS


class Store(Protocol):
    """See the head of this file."""

    async def append(
        self,
        run: str,
        expected: Head,
        events: Sequence[bytes],
        *,
        incarnation: str = "",
        worker: str = "",
    ) -> Standing:
        """Add events after the expected head. `incarnation`: the run's from then on; by default as it is. `worker`:
        whose sign of life this is, too.

        Returns "stored"; "deleted" if the run has a tombstone; "changed" if its head is another one.
        """
        ...

    async def stands(self, run: str, head: Head) -> bool:
        """Whether this is the run's head, and not deleted: a `read` that has nothing to tell, for a fraction of it."""
        ...

    async def read(self, run: str, after: int, limit: int) -> Page:
        """At most `limit` events after a version; an empty page for a run that is not there."""
        ...

    async def read_back(self, run: str, before: int, limit: int) -> list[tuple[int, bytes]]:
        """At most `limit` events with versions up to and including `before`, newest first."""
        ...

    async def heads(self, runs: Sequence[str]) -> list[Head]:
        """Where each of many runs stands."""
        ...

    async def enlist(self, run: str, created: float) -> None:
        """Make a run known to `names`; must precede its first event. A run that is known keeps its time."""
        ...

    async def names(self, limit: int, after: tuple[float, str] | None = None) -> list[tuple[float, str]]:
        """(creation, name) of at most `limit` runs, newest first, after one of them in that order."""
        ...

    async def delete(self, run: str) -> None:
        """Remove the run's history and leave a tombstone. Idempotent."""
        ...

    async def keep(self, run: str, snapshot: Mapping[str, bytes]) -> None:
        """Keep a snapshot's fields in place of the last one's."""
        ...

    async def kept(self, runs: Sequence[str], fields: Sequence[str]) -> list[dict[str, bytes]]:
        """Of each run's snapshot these fields, those that are there."""
        ...

    async def beat(self, run: str, worker: str, heartbeat: bytes | None = None) -> None:
        """A sign of life; without a heartbeat the last one stays."""
        ...

    async def pulses(self, workers: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Pulse]:
        """The last signs of life of those (run, worker) that have one."""
        ...

    async def ping(self) -> None:
        """Return if the store answers."""
        ...

    async def close(self) -> None:
        """Let go of every connection. Idempotent."""
        ...
