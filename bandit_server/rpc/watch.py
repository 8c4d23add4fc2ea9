"""A run's history for a watcher: what there is, with the posterior on the way, then what is appended."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator

from bandit_server.errors import RunDeleted, RunNotFound
from bandit_server.replica.cached_run import read_following
from bandit_server.replica.runs import Runs
from bandit_server.run import summary
from bandit_server.run.state import RunState
from bandit_server.store.base import Page, fingerprint
from protos.optima.v1 import bandit_pb2 as pb

# What other replicas append is seen after this many seconds; what this one does, at once.
LOOK_SECONDS = 0.5
# What comes within so many seconds of each other is sent together: of many workers' events not every one is a message.
GATHER_SECONDS = 0.05
# Workers' signs of life are sent this often, also when nothing is appended.
PULSE_SECONDS = 2.0
# Points of the posterior that a watcher is sent of what was there before it came.
POINTS = 2000


async def watch(runs: Runs, run: str, from_version: int, incarnation: str) -> AsyncIterator[pb.WatchRunResponse]:
    """Batches of history after a version, and of news. Ends when the run is deleted.

    The watcher's state is its own: it holds a place in the history, and the server no queue for it.

    Raises:
        RunNotFound: No such run.
        StoreUnavailable: The store does not answer.
    """
    now = await runs.state(run)
    known = incarnation == now.incarnation and from_version <= now.version
    watcher = _Watcher(runs, run, from_version if known else 0)
    while True:
        try:
            async for batch in watcher.news():
                yield batch
        except (RunDeleted, RunNotFound):
            return
        await runs.wait(run, LOOK_SECONDS)
        await asyncio.sleep(GATHER_SECONDS)


class _Watcher:
    def __init__(self, runs: Runs, run: str, told: int) -> None:
        self._runs = runs
        self._run = run
        self._state = RunState(run)
        # The fingerprint of the last event in it.
        self._last = ""
        # The last version that the watcher has.
        self._told = told
        self._started = False
        self._pulsed = 0.0
        # Every which reward a point of the posterior is sent for.
        self._every = 1

    async def news(self) -> AsyncIterator[pb.WatchRunResponse]:
        """What has been appended since, in batches; or the workers' signs of life, when it is time for them."""
        page = await self._read()
        # An event in two is a reward.
        self._every = max(1, math.ceil((page.head.version - self._told) / 2 / POINTS))
        while page.events or not self._started:
            live = self._state.version + len(page.events) >= page.head.version
            batch = await self._batch(page, live)
            if batch is not None:
                yield batch
            if live:
                return
            page = await self._read()
        if time.monotonic() - self._pulsed > PULSE_SECONDS:
            yield await self._tell([], [], live=True)

    async def _read(self) -> Page:
        page, follows = await read_following(
            self._runs.store, self._run, self._state.version, self._last, self._runs.page_size
        )
        if page.head.deleted:
            raise RunDeleted(f"run {self._run} was deleted")
        if not follows:
            # History was lost. What stands now may first have to be given its new incarnation.
            await self._runs.state(self._run)
            self._state = RunState(self._run)
            self._told = 0
            return await self._runs.store.read(self._run, 0, self._runs.page_size)
        return page

    async def _batch(self, page: Page, live: bool) -> pb.WatchRunResponse | None:
        events, points = [], []
        if page.events:
            self._last = fingerprint(page.events[-1][1])
        for version, stored in page.events:
            event = pb.Event.FromString(stored)
            self._state.apply(event)
            if version <= self._told:
                continue
            events.append(event)
            rewarded = event.HasField("reward_reported") and event.reward_reported.HasField("reward")
            if rewarded and (self._state.rewards % self._every == 0 or version == page.head.version):
                point = summary.point(self._state)
                if point is not None:
                    points.append(point)
                # Nobody else waits while a long history is gone through.
                await asyncio.sleep(0)
        if not events and not live:
            return None
        return await self._tell(events, points, live)

    async def _tell(self, events: list[pb.Event], points: list[pb.PosteriorPoint], live: bool) -> pb.WatchRunResponse:
        workers = [(self._run, worker) for worker in self._state.workers]
        heartbeats = await self._runs.store.heartbeats(workers)
        told = summary.with_heartbeats(summary.summary(self._state), heartbeats)
        batch = pb.WatchRunResponse(run=told, from_version=self._told, events=events, posterior=points, live=live)
        self._told = self._state.version
        self._started = True
        self._pulsed = time.monotonic()
        return batch
