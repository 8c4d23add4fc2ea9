"""The runs in this replica's memory, brought up to date from the store, and the commands carried out on them.

A command is decided on the cached state and appended with compare-and-append. Where another replica was faster, its
events are folded and the command is decided anew. An answer that appends nothing (a repeat, a refusal) is given only
after the store has confirmed that there is nothing newer, so while the store does not answer, neither does the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

from bandit_server.errors import DataLoss, RunDeleted, RunNotFound, ServerError, StoreUnavailable
from bandit_server.replica import snapshots
from bandit_server.replica.cached_run import PAGE_SIZE, CachedRun, run_deleted
from bandit_server.run.decision import Decision
from bandit_server.run.old_rounds import NeedsHistory, OldRound
from bandit_server.run.state import RunState
from bandit_server.store.base import ALIVE_SECONDS, Head, Store, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
Command = Callable[[RunState, OldRound | None], Decision[T]]

# Seconds a command may take in all; a call to the store has its own, shorter deadline.
DEADLINE = 3.5
# Seconds for which the other workers' heartbeats, once read, are not read again.
ALIVE_CHECK_SECONDS = 1.0
# A heartbeat younger than this is not renewed by an append.
FRESH_SECONDS = 1.0
# Runs in memory. The least recently used one is dropped first, and loaded again when it is needed.
CACHED_RUNS = 2048
# A run that nobody has used for so long is dropped.
IDLE_SECONDS = 30.0
# A snapshot is taken of a run that has this many events since the last one, or any and then none for so long.
SNAPSHOT_EVENTS = 1000
REST_SECONDS = 2.0
# Memory is released to the operating system after this many runs have been dropped.
RELEASE_AFTER_RUNS = 100
# How often the cache is maintained, and the share of that time which snapshots may take.
MAINTENANCE_SECONDS = 1.0
SNAPSHOT_SHARE = 0.05


class Runs:
    """All runs, for use in the store's event loop.

    Every method that waits raises StoreUnavailable if the store does not answer in time, and RunDeleted for a deleted
    run.

    Args:
        store: Where the histories are.
        on_append: Called with the number of events after every append by this replica.
        deadline: Seconds a command may take in all.
        page_size: Events fetched from the store at a time.
        new_state: Makes the state of a run without events.
    """

    def __init__(
        self,
        store: Store,
        on_append: Callable[[int], None] = lambda _: None,
        *,
        deadline: float = DEADLINE,
        page_size: int = PAGE_SIZE,
        new_state: Callable[[str], RunState] = RunState,
    ) -> None:
        self.store = store
        self.deadline = deadline
        self.page_size = page_size
        self._on_append = on_append
        self._new_state = new_state
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    def within_deadline(self) -> Deadline:
        """Limit a block to the time that a command may take. Such blocks may be nested."""
        return Deadline(self.deadline)

    def cached_state(self, name: str, head: Head) -> RunState | None:
        """Return the run's state if it is cached as of this head, without asking the store."""
        run = self._runs.get(name)
        if run is None or run.lock.locked() or (run.state.version, run.head.last) != (head.version, head.last):
            return None
        return run.state if run.state.incarnation == head.incarnation else None

    async def state(self, name: str) -> RunState:
        """Return the run's state as of now. Do not hold on to it: it goes on changing.

        Raises:
            RunNotFound: No such run.
        """
        run = self._cached_run(name)
        async with self.within_deadline(), run.lock:
            await self._refresh(run)
        if run.state.version == 0:
            raise RunNotFound(f"there is no run {name}")
        return run.state

    async def execute(
        self, name: str, command: Command[T], *, worker: str = "", may_create: bool = False
    ) -> tuple[T, RunState]:
        """Carry out a command.

        Args:
            name: The run's name.
            command: Decides on a state and, if it has raised NeedsHistory before, on the round that it asked for.
            worker: The caller, whose heartbeat this renews.
            may_create: Whether the command is for a run that need not exist.

        Returns:
            The command's answer, and the state after it.

        Raises:
            RunNotFound: No such run, and the command may not create it.
            ServerError: The command refuses.
        """
        run = self._cached_run(name)
        async with self.within_deadline(), run.lock:
            up_to_date = run.state.version == 0
            if up_to_date:
                await self._refresh(run)
            while True:
                outcome = await self._decide(run, command, may_create)
                if isinstance(outcome, Decision) and outcome.events:
                    if await self._append(run, outcome, worker):
                        return outcome.answer, run.state
                    # Another replica was faster: decide anew.
                    await self._refresh(run)
                    up_to_date = True
                elif not up_to_date and await self._refresh(run):
                    # The cached state was out of date: decide anew.
                    up_to_date = True
                elif isinstance(outcome, ServerError):
                    raise outcome
                else:
                    await self._renew_heartbeat(run, worker)
                    return outcome.answer, run.state

    async def read(self, name: str) -> list[pb.Event]:
        """Return the whole history, oldest first, as long as the version of the state, which is brought up to date.

        It is empty for a run that does not exist.
        """
        run = self._cached_run(name)
        async with self.within_deadline(), run.lock:
            await self._refresh(run)
            events: list[pb.Event] = []
            while len(events) < run.state.version:
                page = await self.store.read(name, len(events), min(self.page_size, run.state.version - len(events)))
                if not page.events:
                    raise StoreUnavailable(f"the store has just lost history of run {name}; try again")
                events += [pb.Event.FromString(event) for _, event in page.events]
        return events

    async def alive(self, name: str, besides: str) -> set[str]:
        """Return the workers with pulls in flight, besides one, that count as alive."""
        run = self._cached_run(name)
        others = [worker for worker in run.state.busy_workers if worker != besides]
        if not others:
            return set()
        now = time.monotonic()
        if now - run.heartbeats_read > ALIVE_CHECK_SECONDS:
            heartbeats = await self.store.heartbeats([(name, worker) for worker in others])
            run.heartbeats_read = now
            for (_, worker), heartbeat in heartbeats.items():
                alive_until = now + ALIVE_SECONDS - heartbeat.age
                run.alive_until[worker] = max(run.alive_until.get(worker, 0.0), alive_until)
        return {worker for worker in others if run.alive_until.get(worker, 0.0) > now}

    async def record_heartbeat(self, name: str, worker: str, request: bytes) -> None:
        """Record a worker's heartbeat, a serialized HeartbeatRequest."""
        await self.store.record_heartbeat(name, worker, request)
        _mark_alive(self._cached_run(name), worker)

    async def delete(self, name: str) -> None:
        """Delete a run's history."""
        await self.store.delete(name)
        self._forget_deleted(name)

    async def wait(self, name: str, seconds: float) -> None:
        """Return when the run's cached state has changed, or after this many seconds."""
        run = self._cached_run(name)
        if run.changed is None:
            run.changed = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await run.changed.wait()

    async def maintain(
        self,
        *,
        interval: float = MAINTENANCE_SECONDS,
        idle_seconds: float = IDLE_SECONDS,
        rest_seconds: float = REST_SECONDS,
    ) -> None:
        """Maintain the cache until cancelled: take snapshots, drop idle runs, and release their memory.

        Args:
            interval: Seconds between two rounds of this.
            idle_seconds: A run that nobody has used for so long is dropped.
            rest_seconds: A run without new events for so long gets a snapshot.
        """
        dropped = 0
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreUnavailable):
                await self._save_due_snapshots(rest_seconds, interval * SNAPSHOT_SHARE)
            dropped_now = self._drop_idle(idle_seconds)
            dropped += dropped_now
            if dropped >= RELEASE_AFTER_RUNS and not dropped_now:
                release_memory()
                dropped = 0

    async def save_snapshot(self, name: str) -> None:
        """Take a snapshot of a run, if it is cached and has events."""
        run = self._runs.get(name)
        # While the lock is held, the state may be half changed.
        if run is None or run.lock.locked() or not run.state.version:
            return
        run.snapshot_version = run.state.version
        await self.store.save_snapshot(name, snapshots.take(run.state, run.head.last))

    async def _save_due_snapshots(self, rest_seconds: float, budget: float) -> None:
        """Take the snapshots that are due, longest histories first, in at most so many seconds of processor time."""
        now = time.monotonic()
        due = [
            (run.snapshot_version - run.state.version, run.name)
            for run in self._runs.values()
            if run.state.version - run.snapshot_version >= SNAPSHOT_EVENTS
            or (run.state.version > run.snapshot_version and now - run.changed_at > rest_seconds)
        ]
        began = time.process_time()
        for _, name in sorted(due):
            await self.save_snapshot(name)
            if time.process_time() - began > budget:
                return

    def _drop_idle(self, idle_seconds: float) -> int:
        """Drop the runs that nobody has used for so long; return how many."""
        now = time.monotonic()
        idle = [n for n, run in self._runs.items() if now - run.used_at > idle_seconds and not run.lock.locked()]
        for name in idle:
            del self._runs[name]
        return len(idle)

    def _cached_run(self, name: str) -> CachedRun:
        """Return the run in memory, which is empty if it was not there, and drop the least recently used ones."""
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = CachedRun(name, self.store, self.page_size, self._new_state)
            for other in list(self._runs)[: max(0, len(self._runs) - CACHED_RUNS)]:
                # A command is using a locked one.
                if not self._runs[other].lock.locked():
                    del self._runs[other]
        self._runs.move_to_end(name)
        run.used_at = time.monotonic()
        return run

    async def _refresh(self, run: CachedRun) -> bool:
        """Fold what the store has and this replica has not; return whether that has changed the state."""
        before = (run.state.incarnation, run.state.version)
        try:
            await run.catch_up()
        except RunDeleted:
            self._forget_deleted(run.name)
            raise
        return (run.state.incarnation, run.state.version) != before

    async def _decide(self, run: CachedRun, command: Command[T], may_create: bool) -> Decision[T] | ServerError:
        """Return what the command comes to on the cached state: a decision, or the refusal."""
        old_round: OldRound | None = None
        while True:
            try:
                outcome: Decision[T] | ServerError = command(run.state, old_round)
            except NeedsHistory as needed:
                old_round = OldRound(await run.find_round(needed))
                continue
            except ServerError as refusal:
                outcome = refusal
            # A caller that has seen history is told that it was lost, so that it restores the run.
            if run.state.version == 0 and not may_create and not isinstance(outcome, DataLoss):
                return RunNotFound(f"there is no run {run.name}")
            return outcome

    async def _append(self, run: CachedRun, decision: Decision[object], worker: str) -> bool:
        """Append a decision's events and fold them; return False if the run has changed in the store."""
        now = time.time()
        for event in decision.events:
            event.time = now
        if run.state.version == 0:
            await self.store.register(run.name, now)
        events = [event.SerializeToString() for event in decision.events]
        if run.alive_until.get(worker, 0.0) > time.monotonic() + ALIVE_SECONDS - FRESH_SECONDS:
            worker = ""
        result = await self.store.append(run.name, run.head, events, incarnation=decision.incarnation, worker=worker)
        if result == "deleted":
            self._forget_deleted(run.name)
            raise run_deleted(run.name)
        if result == "changed":
            return False
        for event in decision.events:
            run.state.apply(event, decision.fallback_arms)
        run.head = Head(run.state.version, run.state.incarnation, False, fingerprint(events[-1]))
        if worker:
            _mark_alive(run, worker)
        self._on_append(len(decision.events))
        run.notify()
        return True

    async def _renew_heartbeat(self, run: CachedRun, worker: str) -> None:
        if worker:
            # A store that takes no writes now (its disk is full) can still be read.
            with contextlib.suppress(StoreUnavailable):
                await self.store.record_heartbeat(run.name, worker)
            _mark_alive(run, worker)

    def _forget_deleted(self, name: str) -> None:
        run = self._runs.pop(name, None)
        if run is not None:
            run.notify()


class Deadline:
    """A block that ends within so many seconds, or with StoreUnavailable."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(self._seconds)
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError as error:
            raise StoreUnavailable(f"the store was too slow (more than {self._seconds:g} s); try again") from error


def _mark_alive(run: CachedRun, worker: str) -> None:
    run.alive_until[worker] = time.monotonic() + ALIVE_SECONDS


def release_memory() -> None:
    """Give freed memory back to the operating system; some tens of milliseconds with a thousand cached runs.

    One live object pins its page (with Python's own allocator, a megabyte), so the interpreter's caches are cleared
    before malloc_trim: attribute look-ups, and freed objects that are kept for reuse, which a collection drops.
    Measured with 1,000 runs: without this, they go on taking what they took, 72 KB each; with malloc_trim alone 17 KB;
    with all of it 3 KB (docs/server-speed.md).
    """
    # Python's own name for it has changed; without it more is held, and nothing is wrong.
    clear_caches = getattr(sys, "_clear_internal_caches", None) or getattr(sys, "_clear_type_cache", None)
    if clear_caches is not None:
        clear_caches()
    gc.collect()
    # Only glibc has it.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
