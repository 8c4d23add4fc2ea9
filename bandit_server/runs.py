"""The runs as this replica has them: cached states, brought up to date from the store, and commands carried out.

A command is decided on the cached state and appended with compare-and-append. Where another replica was faster, what
it wrote is folded, and the command decided anew. An answer that appends nothing (a repeat, a refusal) is given only
after the store has confirmed that there is nothing newer: a store that does not answer gets no made-up answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from bandit_server import snapshots, spare
from bandit_server.errors import DataLoss, RunDeleted, RunNotFound, ServerError, StoreUnavailable
from bandit_server.run.decision import Decision
from bandit_server.run.recall import NeedsHistory, Recall, Recalled
from bandit_server.run.state import SCHEMA, RunState
from bandit_server.run.worker import Round
from bandit_server.store.base import ALIVE_SECONDS, Head, Page, Store, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
Decide = Callable[[RunState, Recalled | None], Decision[T]]

# Events fetched from the store at a time.
PAGE = 1000
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
# Events folded at a time while other calls wait.
FOLDED_AT_ONCE = 100


class Run:
    """One run on this replica.

    Attributes:
        state: As of the last event that this replica has seen.
        head: Where the store said the run stood, then.
        lock: Held while the state changes.
        appended: Set when this replica appends; there is one only while somebody waits.
    """

    def __init__(self, name: str) -> None:
        self.state = RunState(name)
        self.head = Head(0, "", False)
        self.lock = asyncio.Lock()
        self.appended: asyncio.Event | None = None
        # Until when, by the monotonic clock, each worker counts as alive, and when the store was asked last.
        self.alive: dict[str, float] = {}
        self.alive_asked = -ALIVE_CHECK_SECONDS
        # The version of the last snapshot; when the run last moved on and was last asked for, by the monotonic clock.
        self.kept = 0
        self.moved = self.used = time.monotonic()

    def tell(self) -> None:
        """Wake everyone who waits for something new."""
        self.moved = time.monotonic()
        if self.appended is not None:
            self.appended.set()
            self.appended = None


class Runs:
    """All runs. To be used in the store's event loop. `appended` is told how many events this replica has stored.

    Every method raises StoreUnavailable if the store does not answer in time, and RunDeleted for a deleted run.
    """

    def __init__(self, store: Store, appended: Callable[[int], None] = lambda _: None) -> None:
        self.store = store
        self._appended = appended
        self._runs: OrderedDict[str, Run] = OrderedDict()

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
            await self._sync(run)
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
                    await self._sync(run)
                    fresh = True
                decision: Decision[T] | None = None
                refusal: ServerError | None = None
                try:
                    decision = decide(run.state, recalled)
                except NeedsHistory as needed:
                    recalled = Recalled(await self._recall(run, needed))
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
                    await self._sync(run)
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
            await self._sync(run)
            events: list[pb.Event] = []
            while len(events) < run.state.version:
                page = await self.store.read(name, len(events), min(PAGE, run.state.version - len(events)))
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
        if now - run.alive_asked > ALIVE_CHECK_SECONDS:
            pulses = await self.store.pulses([(name, worker) for worker in others])
            run.alive_asked = now
            for (_, worker), pulse in pulses.items():
                run.alive[worker] = max(run.alive.get(worker, 0.0), now + ALIVE_SECONDS - pulse.age)
        return {worker for worker in others if run.alive.get(worker, 0.0) > now}

    async def beat(self, name: str, worker: str, heartbeat: bytes) -> None:
        """A worker's heartbeat."""
        await self.store.beat(name, worker, heartbeat)
        self._saw(self._run(name), worker)

    async def delete(self, name: str) -> None:
        """Delete a run's history."""
        await self.store.delete(name)
        run = self._runs.pop(name, None)
        if run is not None:
            run.tell()

    async def wait(self, name: str, seconds: float) -> None:
        """Return when this replica appends to the run, at the latest after so many seconds."""
        run = self._run(name)
        if run.appended is None:
            run.appended = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await run.appended.wait()

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
                spare.give_back()
                gone = 0

    def _let_go(self) -> int:
        """Let go of the runs that nobody has asked for in a while; how many that were."""
        now = time.monotonic()
        idle = [name for name, run in self._runs.items() if now - run.used > IDLE_SECONDS and not run.lock.locked()]
        for name in idle:
            del self._runs[name]
        return len(idle)

    async def keep(self, name: str) -> None:
        """Take a snapshot of a run as it is at hand, if it is and has any events."""
        run = self._runs.get(name)
        # One that somebody is busy with may be in the middle of something.
        if run is None or run.lock.locked() or not run.state.version:
            return
        run.kept = run.state.version
        await self.store.keep(name, snapshots.take(run.state, run.head.last))

    async def _keep_some(self) -> None:
        now = time.monotonic()
        due = [
            (run.kept - run.state.version, run.state.run)
            for run in self._runs.values()
            if run.state.version - run.kept >= SNAPSHOT_EVENTS
            or (run.state.version > run.kept and now - run.moved > RESTED_SECONDS)
        ]
        began = time.process_time()
        for _, name in sorted(due):
            await self.keep(name)
            if time.process_time() - began > TEND_SECONDS * TEND_SHARE:
                return

    def _run(self, name: str) -> Run:
        run = self._runs.get(name)
        if run is None:
            run = self._runs[name] = Run(name)
            for other in list(self._runs)[: max(0, len(self._runs) - RUNS_AT_HAND)]:
                # One that somebody is busy with stays.
                if not self._runs[other].lock.locked():
                    del self._runs[other]
        self._runs.move_to_end(name)
        run.used = time.monotonic()
        return run

    async def _append(self, run: Run, decision: Decision[object], worker: str) -> bool:
        """Whether it was stored; if not, the run has moved on."""
        now = time.time()
        for event in decision.events:
            event.time = now
        name = run.state.run
        if run.state.version == 0:
            await self.store.enlist(name, now)
        events = [event.SerializeToString() for event in decision.events]
        if run.alive.get(worker, 0.0) > time.monotonic() + ALIVE_SECONDS - FRESH_SECONDS:
            worker = ""
        standing = await self.store.append(
            name,
            run.head,
            events,
            incarnation=decision.incarnation,
            worker=worker,
        )
        if standing == "deleted":
            raise self._deleted(name)
        if standing == "changed":
            return False
        for event in decision.events:
            run.state.apply(event, decision.later)
        run.head = Head(run.state.version, run.state.incarnation, False, fingerprint(events[-1]))
        if worker:
            self._saw(run, worker)
        self._appended(len(decision.events))
        run.tell()
        return True

    async def _sync(self, run: Run) -> None:
        """Fold what the store has and this replica has not."""
        name = run.state.run
        if run.state.version == 0:
            await self._recover(run)
        elif await self.store.stands(name, run.head):
            return
        while True:
            known = run.state
            page, follows = await following(self.store, name, known.version, run.head.last)
            if page.head.deleted:
                raise self._deleted(name)
            if not follows:
                if page.head.incarnation == known.incarnation:
                    await self._store_fell_back(run, page.head)
                run.state, run.head, run.kept, run.alive = RunState(name), Head(0, "", False), 0, {}
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

    async def _recover(self, run: Run) -> None:
        """Begin with the run's snapshot, if it has one whose last event is in the history."""
        name = run.state.run
        kept = await self.store.kept([name], [snapshots.OF, snapshots.STATE])
        found = snapshots.restored(name, kept[0])
        if found is None:
            return
        state, head = found
        page = await self.store.read(name, head.version - 1, 1)
        if page.events and (page.events[0][0], fingerprint(page.events[0][1])) == (head.version, head.last):
            run.state, run.head, run.kept = state, head, head.version

    async def _store_fell_back(self, run: Run, head: Head) -> None:
        """The store has less than this replica has seen of the same incarnation, or, another replica having filled it
        up, something else. Workers that saw no more than is left would not notice, and those that did would, once new
        events have taken the lost versions, not notice either: a new incarnation tells all of them."""
        restored = pb.RunRestored(
            incarnation=secrets.token_hex(8),
            lost_incarnation=run.state.incarnation,
            lost_version=run.state.version,
        )
        event = pb.Event(schema=SCHEMA, time=time.time(), run_restored=restored)
        name = run.state.run
        # If it fails, another replica was faster.
        await self.store.append(name, head, [event.SerializeToString()], incarnation=restored.incarnation)

    async def _recall(self, run: Run, needed: NeedsHistory) -> Round | None:
        recall = Recall(needed.worker, needed.round, run.state.index)
        before = run.state.version
        while before > 0 and not recall.done:
            entries: Sequence[tuple[int, bytes]] = await self.store.read_back(run.state.run, before, PAGE)
            for _, event in entries:
                recall.give(pb.Event.FromString(event))
                if recall.done:
                    break
            before = entries[-1][0] - 1 if entries else 0
        return recall.found

    def _deleted(self, name: str) -> RunDeleted:
        run = self._runs.pop(name, None)
        if run is not None:
            run.tell()
        return RunDeleted(f"run {name} was deleted; its name is free again 30 days later: choose another one")

    def _saw(self, run: Run, worker: str) -> None:
        run.alive[worker] = time.monotonic() + ALIVE_SECONDS


async def following(store: Store, run: str, version: int, last: str) -> tuple[Page, bool]:
    """A page of events after a version, and whether they follow the event of that version with the fingerprint `last`:
    if not, the store has lost history, and maybe got another since. The incarnation does not tell that: it changes
    within a history, and only once somebody has noticed."""
    if version == 0:
        return await store.read(run, 0, PAGE), True
    page = await store.read(run, version - 1, PAGE)
    follows = bool(page.events) and fingerprint(page.events[0][1]) == last
    return Page(page.head, page.events[1:]), follows


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
