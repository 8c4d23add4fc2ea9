"""Brings a run that is at hand up to date: what another replica has written, and what the store has lost."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence

from bandit_server.errors import RunDeleted
from bandit_server.replica import snapshots
from bandit_server.replica.at_hand import Run
from bandit_server.run.old_rounds import NeedsHistory, Recall
from bandit_server.run.state import SCHEMA
from bandit_server.run.worker import Round
from bandit_server.store.base import Head, Page, Store, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

# Events fetched from the store at a time.
PAGE = 1000
# Events folded at a time while other calls wait.
FOLDED_AT_ONCE = 100


def deleted(run: str) -> RunDeleted:
    """What is said of a run that was."""
    return RunDeleted(f"run {run} was deleted; its name is free again 30 days later: choose another one")


async def catch_up(store: Store, run: Run) -> None:
    """Fold what the store has and this replica has not. The run's lock is held.

    Raises:
        RunDeleted, StoreUnavailable.
    """
    name = run.name
    if run.state.version == 0:
        await _recover(store, run)
    elif await store.stands(name, run.head):
        return
    while True:
        known = run.state
        page, follows = await following(store, name, known.version, run.head.last)
        if page.head.deleted:
            raise deleted(name)
        if not follows:
            if page.head.incarnation == known.incarnation:
                await _store_fell_back(store, run, page.head)
            run.forget()
            continue
        for at in range(0, len(page.events), FOLDED_AT_ONCE):
            some = page.events[at : at + FOLDED_AT_ONCE]
            for _, event in some:
                known.apply(pb.Event.FromString(event))
            run.head = Head(known.version, known.incarnation, False, fingerprint(some[-1][1]))
            if len(page.events) > FOLDED_AT_ONCE:
                await asyncio.sleep(0)
        if page.events:
            run.tell()
        if known.version >= page.head.version:
            run.head = page.head
            return


async def _recover(store: Store, run: Run) -> None:
    """Begin with the run's snapshot, if it has one whose last event is in the history."""
    name = run.name
    kept = await store.kept([name], [snapshots.OF, snapshots.STATE])
    found = snapshots.restored(name, kept[0])
    if found is None:
        return
    state, head = found
    page = await store.read(name, head.version - 1, 1)
    if page.events and (page.events[0][0], fingerprint(page.events[0][1])) == (head.version, head.last):
        run.state, run.head, run.kept = state, head, head.version


async def _store_fell_back(store: Store, run: Run, head: Head) -> None:
    """The store has less than this replica has seen of the same incarnation, or, another replica having filled it
    up, something else. Workers that saw no more than is left would not notice, and those that did would, once new
    events have taken the lost versions, not notice either: a new incarnation tells all of them."""
    restored = pb.RunRestored(
        incarnation=secrets.token_hex(8),
        lost_incarnation=run.state.incarnation,
        lost_version=run.state.version,
    )
    event = pb.Event(schema=SCHEMA, time=time.time(), run_restored=restored)
    name = run.name
    # If it fails, another replica was faster.
    await store.append(name, head, [event.SerializeToString()], incarnation=restored.incarnation)


async def recall(store: Store, run: Run, needed: NeedsHistory) -> Round | None:
    """What the history says of a round that is not at hand."""
    search = Recall(needed.worker, needed.round, run.state.index)
    before = run.state.version
    while before > 0 and not search.done:
        entries: Sequence[tuple[int, bytes]] = await store.read_back(run.name, before, PAGE)
        for _, event in entries:
            search.give(pb.Event.FromString(event))
            if search.done:
                break
        before = entries[-1][0] - 1 if entries else 0
    return search.found


async def following(store: Store, run: str, version: int, last: str) -> tuple[Page, bool]:
    """A page of events after a version, and whether they follow the event of that version with the fingerprint `last`:
    if not, the store has lost history, and maybe got another since. The incarnation does not tell that: it changes
    within a history, and only once somebody has noticed."""
    if version == 0:
        return await store.read(run, 0, PAGE), True
    page = await store.read(run, version - 1, PAGE)
    follows = bool(page.events) and fingerprint(page.events[0][1]) == last
    return Page(page.head, page.events[1:]), follows
