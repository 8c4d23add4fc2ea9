"""WatchRun: a run's history with its posterior, then new events as they are appended."""

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

# Seconds between two reads of the store, for events of other replicas; events of this one are sent at once.
POLL_SECONDS = 0.5
# Events appended within this many seconds are sent in one message, of which many workers would otherwise cause many.
GATHER_SECONDS = 0.05
# Seconds between two messages with the workers' heartbeats, if nothing is appended.
HEARTBEAT_SECONDS = 2.0
# The most posterior points sent of the history before the watch began.
POINTS = 2000


async def watch(runs: Runs, run: str, from_version: int, incarnation: str) -> AsyncIterator[pb.WatchRunResponse]:
    """Yield batches of the history after a version, then of new events, until the run is deleted.

    The watcher folds a state of its own and reads the store from its position in the history, so that the server holds
    no queue for it.

    Args:
        runs: The replica's runs.
        run: The run's name.
        from_version: The last version that the watcher has; 0 for none.
        incarnation: The incarnation that the watcher has. If it is not the run's, the watch starts from 0.

    Raises:
        RunNotFound: No such run.
        StoreUnavailable: The store does not answer.
    """
    state = await runs.state(run)
    follows = incarnation == state.incarnation and from_version <= state.version
    watcher = _Watcher(runs, run, from_version if follows else 0)
    while True:
        try:
            async for batch in watcher.batches():
                yield batch
        except (RunDeleted, RunNotFound):
            return
        await runs.wait(run, POLL_SECONDS)
        await asyncio.sleep(GATHER_SECONDS)


class _Watcher:
    def __init__(self, runs: Runs, run: str, sent: int) -> None:
        self._runs = runs
        self._run = run
        self._state = RunState(run)
        # The fingerprint of the last event folded into it.
        self._last = ""
        # The last version that the watcher has.
        self._sent = sent
        self._started = False
        self._sent_at = 0.0
        # Send a posterior point every n-th reward.
        self._every = 1

    async def batches(self) -> AsyncIterator[pb.WatchRunResponse]:
        """Yield what has been appended since the last call; if nothing, the workers' heartbeats when they are due."""
        page = await self._read()
        # Every second event is a reward.
        self._every = max(1, math.ceil((page.head.version - self._sent) / 2 / POINTS))
        while page.events or not self._started:
            live = self._state.version + len(page.events) >= page.head.version
            batch = await self._fold(page, live)
            if batch is not None:
                yield batch
            if live:
                return
            page = await self._read()
        if time.monotonic() - self._sent_at > HEARTBEAT_SECONDS:
            yield await self._response([], [], live=True)

    async def _read(self) -> Page:
        page, follows = await read_following(
            self._runs.store, self._run, self._state.version, self._last, self._runs.page_size
        )
        if page.head.deleted:
            raise RunDeleted(f"run {self._run} was deleted")
        if not follows:
            # History was lost. `state` gives what is left of it a new incarnation, if it has none yet.
            await self._runs.state(self._run)
            self._state = RunState(self._run)
            self._sent = 0
            return await self._runs.store.read(self._run, 0, self._runs.page_size)
        return page

    async def _fold(self, page: Page, live: bool) -> pb.WatchRunResponse | None:
        """Fold a page, and return the response for those of its events that the watcher does not have, if any."""
        events, points = [], []
        if page.events:
            self._last = fingerprint(page.events[-1][1])
        for version, serialized in page.events:
            event = pb.Event.FromString(serialized)
            self._state.apply(event)
            if version <= self._sent:
                continue
            events.append(event)
            rewarded = event.HasField("reward_reported") and event.reward_reported.HasField("reward")
            if rewarded and (self._state.rewards % self._every == 0 or version == page.head.version):
                point = summary.point(self._state)
                if point is not None:
                    points.append(point)
                # Let other calls run while a long history is folded.
                await asyncio.sleep(0)
        if not events and not live:
            return None
        return await self._response(events, points, live)

    async def _response(
        self, events: list[pb.Event], points: list[pb.PosteriorPoint], live: bool
    ) -> pb.WatchRunResponse:
        workers = [(self._run, worker) for worker in self._state.workers]
        heartbeats = await self._runs.store.heartbeats(workers)
        run = summary.with_heartbeats(summary.summary(self._state), heartbeats)
        response = pb.WatchRunResponse(run=run, from_version=self._sent, events=events, posterior=points, live=live)
        self._sent = self._state.version
        self._started = True
        self._sent_at = time.monotonic()
        return response
