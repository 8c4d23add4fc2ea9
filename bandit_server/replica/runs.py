"""The runs as this replica has them: cached states, brought up to date from the store, and commands carried out.

A command is decided on the cached state and appended with compare-and-append. Where another replica was faster, what
it wrote is folded, and the command decided anew. An answer that appends nothing (a repeat, a refusal) is given only
after the store has confirmed that there is nothing newer: a store that does not answer gets no made-up answer.
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
from bandit_server.run.old_rounds import NeedsHistory, Recalled
from bandit_server.run.state import RunState
from bandit_server.store.base import ALIVE_SECONDS, Head, Store, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
Decide = Callable[[RunState, Recalled | None], Decision[T]]

# Seconds a command may take in all; a call to the store has its own, shorter deadline.
DEADLINE = 3.5
# Seconds for which what the store said of other workers' signs of life is good enough.
ALIVE_CHECK_SECONDS = 1.0
# A sign of life this fresh need not be given again.
FRESH_SECONDS = 1.0
# Runs whose state is at hand; the one longest unused goes first, and comes back when it is asked for.
RUNS_AT_HAND = 2048
# How long a run stays at hand that nobody asks for.
IDLE_SECONDS = 30.0
# A snapshot is taken of a run that has moved on so far since the last one, or has moved on and then rested so long.
SNAPSHOT_EVENTS = 1000
RESTED_SECONDS = 2.0
# Their memory goes back to the system when a crowd of so many has gone.
CROWD = 100
# How often runs are looked after, and how much of that time snapshots may take.
TEND_SECONDS = 1.0
TEND_SHARE = 0.05


class Runs:
    """All runs. To be used in the store's event loop. `appended` is told how many events this replica has stored.

    Every method raises StoreUnavailable if the store does not answer in time, and RunDeleted for a deleted run.
    """

    def __init__(self, store: Store, appended: Callable[[int], None] = lambda _: None) -> None:
        self.store = store
        self._appended = appended
        self._runs: OrderedDict[str, CachedRun] = OrderedDict()

    def at_hand(self, name: str, head: Head) -> RunState | None:
        """The run, if it is at hand as the store has said that it stands."""
        run = self._runs.get(name)
        if run is None or run.lock.locked() or (run.state.version, run.head.last) != (head.version, head.last):
            return None
        return run.state if run.state.incarnation == head.incarnation else None

    async def state(self, name: str) -> RunState:
        """The run as the store has it at this moment. Not to be kept: it goes on changing.

        Raises:
            RunNotFound: No such run.
        """
        run = self._run(name)
        async with InTime(), run.lock:
            await self._catch_up(run)
        if run.state.version == 0:
            raise RunNotFound(f"there is no run {name}")
        return run.state

    async def execute(
        self, name: str, decide: Decide[T], *, worker: str = "", may_create: bool = False
    ) -> tuple[T, RunState]:
        """Carry out a command; the answer, and the state after it. `worker`: who thereby shows that it is alive.

        Raises:
            RunNotFound: No such run, and the command may not create it.
            ServerError: What the command refuses.
        """
        run = self._run(name)
        async with InTime(), run.lock:
            fresh = False
            recalled: Recalled | None = None
            while True:
                if not fresh and run.state.version == 0:
                    await self._catch_up(run)
                    fresh = True
                decision: Decision[T] | None = None
                refusal: ServerError | None = None
                try:
                    decision = decide(run.state, recalled)
                except NeedsHistory as needed:
                    recalled = Recalled(await run.find_round(needed))
                    continue
                except ServerError as error:
                    refusal = error
                if run.state.version == 0 and not may_create and not isinstance(refusal, DataLoss):
                    refusal = RunNotFound(f"there is no run {name}")
                if decision is not None and decision.events and refusal is None:
                    if await self._append(run, decision, worker):
                        return decision.answer, run.state
                    fresh = False
                if not fresh:
                    before = (run.state.incarnation, run.state.version)
                    await self._catch_up(run)
                    fresh = True
                    recalled = None
                    if (run.state.incarnation, run.state.version) != before or (decision and decision.events):
                        continue
                if refusal is not None:
                    raise refusal
                assert decision is not None
                if worker:
                    # A store that takes no writes now (its disk is full) still answers what it has.
                    with contextlib.suppress(StoreUnavailable):
                        await self.store.beat(name, worker)
                    self._saw(run, worker)
                return decision.answer, run.state

    async def read(self, name: str) -> list[pb.Event]:
        """The whole history, oldest first: as long as the run's state, which is brought up to date, has versions.
        Empty for a run that is not there."""
        run = self._run(name)
        async with InTime(), run.lock:
            await self._catch_up(run)
            events: list[pb.Event] = []
            while len(events) < run.state.version:
                page = await self.store.read(name, len(events), min(PAGE_SIZE, run.state.version - len(events)))
                if not page.events:
                    raise StoreUnavailable(f"the store has just lost history of run {name}; try again")
                events += [pb.Event.FromString(event) for _, event in page.events]
        return events

    async def alive(self, name: str, besides: str) -> set[str]:
        """The workers that count as alive, if any but one has a pull in flight."""
        run = self._run(name)
        others = [worker for worker in run.state.open if worker != besides]
        if not others:
            return set()
        now = time.monotonic()
        if now - run.heartbeats_read > ALIVE_CHECK_SECONDS:
            pulses = await self.store.pulses([(name, worker) for worker in others])
            run.heartbeats_read = now
            for (_, worker), pulse in pulses.items():
                run.alive_until[worker] = max(run.alive_until.get(worker, 0.0), now + ALIVE_SECONDS - pulse.age)
        return {worker for worker in others if run.alive_until.get(worker, 0.0) > now}

    async def beat(self, name: str, worker: str, heartbeat: bytes) -> None:
        """A worker's heartbeat."""
        await self.store.beat(name, worker, heartbeat)
        self._saw(self._run(name), worker)

    async def delete(self, name: str) -> None:
        """Delete a run's history."""
        await self.store.delete(name)
        self._drop(name)

    async def wait(self, name: str, seconds: float) -> None:
        """Return when this replica appends to the run, at the latest after so many seconds."""
        run = self._run(name)
        if run.changed is None:
            run.changed = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await run.changed.wait()

    async def tend(self) -> None:
        """Look after the runs, for ever: take snapshots, and let go of runs that nobody asks for."""
        gone = 0
        while True:
            await asyncio.sleep(TEND_SECONDS)
            with contextlib.suppress(StoreUnavailable):
                await self._keep_some()
            went = self._let_go()
            gone += went
            if gone >= CROWD and not went:
                release_memory()
                gone = 0

    def _let_go(self) -> int:
        """Let go of the runs that nobody has asked for in a while; how many that were."""
        now = time.monotonic()
        idle = [name for name, run in self._runs.items() if now - run.used_at > IDLE_SECONDS and not run.lock.locked()]
        for name in idle:
            del self._runs[name]
        return len(idle)

    async def keep(self, name: str) -> None:
        """Take a snapshot of a run as it is at hand, if it is and has any events."""
        run = self._runs.get(name)
        # One that somebody is busy with may be in the middle of something.
        if run is None or run.lock.locked() or not run.state.version:
            return
        run.snapshot_version = run.state.version
        await self.store.keep(name, snapshots.take(run.state, run.head.last))

    async def _keep_some(self) -> None:
        now = time.monotonic()
        due = [
            (run.snapshot_version - run.state.version, run.name)
            for run in self._runs.values()
            if run.state.version - run.snapshot_version >= SNAPSHOT_EVENTS
            or (run.state.version > run.snapshot_version and now - run.changed_at > RESTED_SECONDS)
        ]
        began = time.process_time()
        for _, name in sorted(due):
            await self.keep(name)
            if time.process_time() - began > TEND_SECONDS * TEND_SHARE:
                return

    def _run(self, name: str) -> CachedRun:
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = CachedRun(name, self.store)
            for other in list(self._runs)[: max(0, len(self._runs) - RUNS_AT_HAND)]:
                # One that somebody is busy with stays.
                if not self._runs[other].lock.locked():
                    del self._runs[other]
        self._runs.move_to_end(name)
        run.used_at = time.monotonic()
        return run

    async def _append(self, run: CachedRun, decision: Decision[object], worker: str) -> bool:
        """Whether it was stored; if not, the run has moved on."""
        now = time.time()
        for event in decision.events:
            event.time = now
        if run.state.version == 0:
            await self.store.enlist(run.name, now)
        events = [event.SerializeToString() for event in decision.events]
        if run.alive_until.get(worker, 0.0) > time.monotonic() + ALIVE_SECONDS - FRESH_SECONDS:
            worker = ""
        standing = await self.store.append(run.name, run.head, events, incarnation=decision.incarnation, worker=worker)
        if standing == "deleted":
            self._drop(run.name)
            raise run_deleted(run.name)
        if standing == "changed":
            return False
        for event in decision.events:
            run.state.apply(event, decision.later)
        run.head = Head(run.state.version, run.state.incarnation, False, fingerprint(events[-1]))
        if worker:
            self._saw(run, worker)
        self._appended(len(decision.events))
        run.notify()
        return True

    async def _catch_up(self, run: CachedRun) -> None:
        try:
            await run.catch_up()
        except RunDeleted:
            self._drop(run.name)
            raise

    def _drop(self, name: str) -> None:
        """Let go of a deleted run."""
        run = self._runs.pop(name, None)
        if run is not None:
            run.notify()

    def _saw(self, run: CachedRun, worker: str) -> None:
        run.alive_until[worker] = time.monotonic() + ALIVE_SECONDS


class InTime:
    """A block that ends within the time that a command may take, or in StoreUnavailable. They may be nested."""

    async def __aenter__(self) -> None:
        self._timeout = asyncio.timeout(DEADLINE)
        await self._timeout.__aenter__()

    async def __aexit__(self, *raised: Any) -> None:
        try:
            await self._timeout.__aexit__(*raised)
        except TimeoutError as error:
            raise StoreUnavailable(f"the store was too slow (more than {DEADLINE:g} s); try again") from error


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
