"""A run in this replica's memory, and how it catches up with the store: new events, snapshots, and lost history."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable, Sequence

from bandit_server.errors import RunDeleted
from bandit_server.replica import snapshots
from bandit_server.run.old_rounds import NeedsHistory, RoundSearch
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.run.worker import Round
from bandit_server.store.base import Head, Page, Store, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

# Events fetched from the store at a time.
PAGE_SIZE = 1000
# Events folded at a time while other calls wait.
FOLD_BATCH = 100


class CachedRun:
    """A run as this replica knows it: the fold of its history up to some version.

    `catch_up` and `find_round` are called with the lock held.

    Args:
        name: The run's name.
        store: Where its history is.
        page_size: Events fetched from the store at a time.
        new_state: Makes the state of a run without events.

    Attributes:
        state: The fold of the events that this replica has seen.
        head: The head of the history in the store at that moment.
        lock: Held while the state changes.
        snapshot_version: The version of the last snapshot.
        alive_until: Until when, by the monotonic clock, each worker counts as alive.
        heartbeats_read: When the workers' heartbeats were last read from the store, by the monotonic clock.
        changed: Set when events arrive; exists only while somebody waits.
        changed_at: When events last arrived, by the monotonic clock.
        used_at: When the run was last used, by the monotonic clock.
    """

    state: RunState
    head: Head
    snapshot_version: int
    alive_until: dict[str, float]
    heartbeats_read: float

    def __init__(
        self, name: str, store: Store, page_size: int = PAGE_SIZE, new_state: Callable[[str], RunState] = RunState
    ) -> None:
        self.name = name
        self._store = store
        self._page_size = page_size
        self._new_state = new_state
        self.reset()
        self.lock = asyncio.Lock()
        self.changed: asyncio.Event | None = None
        self.changed_at = self.used_at = time.monotonic()

    def reset(self) -> None:
        """Forget everything about the run."""
        self.state = self._new_state(self.name)
        self.head = Head(0, "", False)
        self.snapshot_version = 0
        self.alive_until = {}
        self.heartbeats_read = -math.inf

    def notify(self) -> None:
        """Wake everyone who waits for new events."""
        self.changed_at = time.monotonic()
        if self.changed is not None:
            self.changed.set()
            self.changed = None

    async def catch_up(self) -> None:
        """Fold the events that the store has and this replica has not.

        Where the store has lost events of the present incarnation, start a new incarnation first.

        Raises:
            RunDeleted: The run was deleted.
            StoreUnavailable: The store does not answer.
        """
        if self.state.version == 0:
            await self._load_snapshot()
        elif await self._store.is_head(self.name, self.head):
            return
        while True:
            page, follows = await read_following(
                self._store, self.name, self.state.version, self.head.last, self._page_size
            )
            if page.head.deleted:
                raise run_deleted(self.name)
            if not follows:
                if page.head.incarnation == self.state.incarnation:
                    await self._append_restored(page.head)
                self.reset()
                continue
            await self._fold(page.events)
            if self.state.version >= page.head.version:
                self.head = page.head
                return

    async def find_round(self, needed: NeedsHistory) -> Round | None:
        """Look up an old round in the history; None if it has not begun.

        Raises:
            StoreUnavailable: The store does not answer.
        """
        search = RoundSearch(needed.worker, needed.round, self.state.index)
        before = self.state.version
        while before > 0 and not search.done:
            entries: Sequence[tuple[int, bytes]] = await self._store.read_backwards(self.name, before, self._page_size)
            for _, event in entries:
                search.add(pb.Event.FromString(event))
                if search.done:
                    break
            before = entries[-1][0] - 1 if entries else 0
        return search.round

    async def _fold(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Apply a page of events, in batches between which other calls get their turn."""
        for start in range(0, len(events), FOLD_BATCH):
            batch = events[start : start + FOLD_BATCH]
            for _, event in batch:
                self.state.apply(pb.Event.FromString(event))
            self.head = Head(self.state.version, self.state.incarnation, False, fingerprint(batch[-1][1]))
            if len(events) > FOLD_BATCH:
                await asyncio.sleep(0)
        if events:
            self.notify()

    async def _load_snapshot(self) -> None:
        """Start from the run's snapshot, if it has one whose last event is in the history."""
        (fields,) = await self._store.load_snapshots([self.name], [snapshots.METADATA, snapshots.STATE])
        state = self._new_state(self.name)
        head = snapshots.restore_state(state, fields)
        if head is None:
            return
        page = await self._store.read(self.name, head.version - 1, 1)
        if page.events and (page.events[0][0], fingerprint(page.events[0][1])) == (head.version, head.last):
            self.state, self.head, self.snapshot_version = state, head, head.version

    async def _append_restored(self, head: Head) -> None:
        """Start a new incarnation of a run whose store has lost events that this replica has seen.

        The store has fewer events of the same incarnation, or, where another replica has appended since, different
        ones. Workers that have seen no more than what is left would not notice. Those that have seen more would not
        notice either once new events have taken the lost versions. A new incarnation tells all of them.
        """
        restored = pb.RunRestored(
            incarnation=secrets.token_hex(8),
            lost_incarnation=self.state.incarnation,
            lost_version=self.state.version,
        )
        event = pb.Event(schema=SCHEMA, time=time.time(), run_restored=restored)
        # If the head has changed, another replica was faster.
        await self._store.append(self.name, head, [event.SerializeToString()], incarnation=restored.incarnation)


def run_deleted(run: str) -> RunDeleted:
    """The error for a run that was deleted."""
    return RunDeleted(f"run {run} was deleted; its name cannot be used again for 30 days: choose another one")


async def read_following(
    store: Store, run: str, version: int, last: str, page_size: int = PAGE_SIZE
) -> tuple[Page, bool]:
    """Read a page of events after a version, and check that they follow the event of that version.

    If they do not, the store has lost history, and may have got other events since. The incarnation does not show
    that: it changes within a history too, and only once somebody has noticed the loss.

    Args:
        store: The store.
        run: The run's name.
        version: The version after which to read.
        last: The fingerprint of the event of that version.
        page_size: At most this many events.

    Returns:
        The page, and whether its events follow.

    Raises:
        StoreUnavailable: The store does not answer.
    """
    if version == 0:
        return await store.read(run, 0, page_size), True
    page = await store.read(run, version - 1, page_size)
    follows = bool(page.events) and fingerprint(page.events[0][1]) == last
    return Page(page.head, page.events[1:]), follows
