"""The two feeds there are, the list of runs and one run, and the hub that hands them out."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import grpc.aio

from bandit_server.dashboard.live.server_client import ServerClient
from bandit_server.dashboard.live.sse import AWAY, LIMIT, Cursor, Feed
from bandit_server.dashboard.view.run_view import Part, RunView
from bandit_server.dashboard.view.summaries import Summary, run_summary

# Seconds between two looks at the list of runs; a slow list is looked at less often, see `RunsFeed.follow`.
LIST_PAUSE = 0.4


class RunsFeed(Feed):
    """All runs. The server offers no stream of them, so this process asks, once for all browsers."""

    def __init__(self, client: ServerClient) -> None:
        super().__init__()
        self._client = client
        self._rows: dict[str, tuple[int, Summary]] = {}
        self._generation = 0
        self._removed: list[tuple[int, str]] = []

    @property
    def ready(self) -> bool:
        return self._generation > 0

    async def follow(self) -> None:
        while True:
            started = time.monotonic()
            runs = await self._client.list_runs()
            self.heard(changed=self._take([run_summary(run) for run in runs]))
            await asyncio.sleep(max(LIST_PAUSE, 4 * (time.monotonic() - started)))

    def _take(self, rows: list[Summary]) -> bool:
        """Keep the rows; whether any is new, other or gone."""
        generation = self._generation + 1
        known, self._rows = self._rows, {}
        for row in rows:
            old = known.pop(row["run"], None)
            self._rows[row["run"]] = old if old is not None and old[1] == row else (generation, row)
        self._removed += [(generation, name) for name in known]
        changed = bool(known) or any(at == generation for at, _ in self._rows.values())
        if changed or not self._generation:
            self._generation = generation
            return True
        return False

    def render(self, cursor: Cursor | None, part: Part = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        since = cursor[1] if cursor else 0
        where = (0, self._generation, 0)
        if cursor == where:
            return None, where, 0
        rows = [row for at, row in self._rows.values() if at > since]
        gone = [name for at, name in self._removed if at > since and name not in self._rows]
        payload = {
            "now": time.time(),
            "server": self._client.address,
            "reset": cursor is None,
            "runs": rows,
            "removed": gone if cursor else [],
        }
        return payload, where, 0


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
        return self._caught_up

    @property
    def progress(self) -> str:
        return f"{self.view.version:,} events so far"

    async def follow(self) -> None:
        try:
            await self._watch()
        except ValueError:
            self._from_start = True
            raise
        except grpc.aio.AioRpcError as error:
            # A server that merely went away goes on where it ended; one that will not go on there is asked for all.
            self._from_start = error.code() not in AWAY
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
                self.heard(changed=batch is not None and self._caught_up)

    def render(self, cursor: Cursor | None, part: Part = "all") -> tuple[dict[str, Any] | None, Cursor, int]:
        view = self.view
        where = (view.epoch, view.version, self._batches)
        if cursor == where:
            return None, where, 0
        if cursor is None or cursor[0] != view.epoch or view.version - cursor[1] > LIMIT:
            payload, size = view.snapshot(LIMIT, part), 0
        else:
            payload, size = view.since(cursor[1], part), view.version - cursor[1]
        return {"now": time.time(), **payload}, where, size


class Hub:
    """Every feed of this dashboard process."""

    def __init__(self, client: ServerClient) -> None:
        self.client = client
        self._runs = RunsFeed(client)
        self._by_run: dict[str, RunFeed] = {}

    def runs(self) -> RunsFeed:
        """The feed of all runs. Join it before anything is awaited."""
        if self._runs.stopped:
            self._runs = RunsFeed(self.client)
        return self._runs

    def run(self, name: str) -> RunFeed:
        """The feed of a run, the one that others look at if there is one. Join it before anything is awaited."""
        for stopped in [other for other, feed in self._by_run.items() if feed.stopped]:
            del self._by_run[stopped]
        return self._by_run.setdefault(name, RunFeed(self.client, name))

    async def close(self) -> None:
        """Follow nothing any more and leave the server."""
        for feed in (self._runs, *self._by_run.values()):
            feed.stop()
        await self.client.close()
