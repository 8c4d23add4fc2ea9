"""The feeds of the dashboard: the list of runs, and one for each run that somebody looks at."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc.aio

from bandit_server.dashboard.live.server_client import ServerClient
from bandit_server.dashboard.live.sse import LIMIT, UNREACHABLE, Cursor, Feed
from bandit_server.dashboard.view.run_view import RunView, Selection
from bandit_server.dashboard.view.summaries import Summary, run_summary

# Seconds between two calls of ListRuns. A slow list is fetched less often, see `RunsFeed.follow`.
LIST_INTERVAL = 0.4


class RunsFeed(Feed):
    """The list of all runs. The server has no stream of it, so the dashboard polls, once for all browsers."""

    def __init__(self, client: ServerClient) -> None:
        super().__init__()
        self._client = client
        # By name: the generation in which the summary last changed, and the summary.
        self._runs: dict[str, tuple[int, Summary]] = {}
        self._generation = 0
        self._removed: list[tuple[int, str]] = []

    @property
    def ready(self) -> bool:
        """Whether the list has been fetched."""
        return self._generation > 0

    async def follow(self) -> None:
        """Fetch the list again and again."""
        while True:
            started = time.monotonic()
            runs = await self._client.list_runs()
            self.on_answer(changed=self._update([run_summary(run) for run in runs]))
            await asyncio.sleep(max(LIST_INTERVAL, 4 * (time.monotonic() - started)))

    def _update(self, summaries: list[Summary]) -> bool:
        """Replace the list, and return whether any run is new, changed or gone."""
        generation = self._generation + 1
        previous, self._runs = self._runs, {}
        for summary in summaries:
            old = previous.pop(summary["run"], None)
            self._runs[summary["run"]] = old if old is not None and old[1] == summary else (generation, summary)
        self._removed += [(generation, name) for name in previous]
        changed = bool(previous) or any(at == generation for at, _ in self._runs.values())
        if changed or not self._generation:
            self._generation = generation
            return True
        return False

    def render(self, cursor: Cursor | None, selection: Selection = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        """Render the runs that changed since the cursor, and the names of those that are gone."""
        since = cursor[1] if cursor else 0
        end = (0, self._generation, 0)
        if cursor == end:
            return None, end, 0
        runs = [summary for at, summary in self._runs.values() if at > since]
        removed = [name for at, name in self._removed if at > since and name not in self._runs]
        payload = {
            "now": time.time(),
            "server": self._client.address,
            "reset": cursor is None,
            "runs": runs,
            "removed": removed if cursor else [],
        }
        return payload, end, 0


class RunFeed(Feed):
    """One run: a single WatchRun for all browsers."""

    def __init__(self, client: ServerClient, run: str) -> None:
        super().__init__(run)
        self._client = client
        self.view = RunView()
        self._caught_up = False
        self._from_start = False
        self._batches = 0

    @property
    def ready(self) -> bool:
        """Whether the history has been read to its end."""
        return self._caught_up

    @property
    def progress(self) -> str:
        """The number of events read so far."""
        return f"{self.view.version:,} events so far"

    async def follow(self) -> None:
        """Watch the run from the version that was read last, or from the start if that cannot be continued."""
        try:
            await self._watch()
        except ValueError:
            self._from_start = True
            raise
        except grpc.aio.AioRpcError as error:
            # A server that was merely unreachable continues where it stopped. After any other error, start over.
            self._from_start = error.code() not in UNREACHABLE
            raise

    async def _watch(self) -> None:
        view = self.view
        version, incarnation = (0, "") if self._from_start else (view.version, view.incarnation)
        watch = self._client.watch(self.name, version, incarnation)
        async with contextlib.aclosing(watch) as batches:
            async for batch in batches:
                if batch is not None:
                    epoch = view.epoch
                    view.apply(batch, time.time())
                    self._batches += 1
                    self._caught_up = batch.live or (self._caught_up and view.epoch == epoch)
                    self._from_start = False
                self.on_answer(changed=batch is not None and self._caught_up)

    def render(self, cursor: Cursor | None, selection: Selection = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        """Render what is new in the run, or all of it if that is shorter or the cursor is of another history."""
        view = self.view
        end = (view.epoch, view.version, self._batches)
        if cursor == end:
            return None, end, 0
        if cursor is None or cursor[0] != view.epoch or view.version - cursor[1] > LIMIT:
            payload, size = view.snapshot(LIMIT, selection), 0
        else:
            payload, size = view.since(cursor[1], selection), view.version - cursor[1]
        return {"now": time.time(), **payload}, end, size


class Hub:
    """All feeds of this dashboard process.

    Attributes:
        client: The connection to the bandit server.
    """

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self._runs = RunsFeed(client)
        self._by_run: dict[str, RunFeed] = {}

    def runs(self) -> RunsFeed:
        """Return the feed of all runs. Join it before the next `await`."""
        if self._runs.stopped:
            self._runs = RunsFeed(self.client)
        return self._runs

    def run(self, name: str) -> RunFeed:
        """Return the feed of a run, shared with other viewers. Join it before the next `await`."""
        for stopped in [other for other, feed in self._by_run.items() if feed.stopped]:
            del self._by_run[stopped]
        return self._by_run.setdefault(name, RunFeed(self.client, name))

    async def close(self) -> None:
        """Stop every feed and close the connection."""
        for feed in (self._runs, *self._by_run.values()):
            feed.stop()
        await self.client.close()
