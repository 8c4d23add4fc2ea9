"""ListRuns: all runs, newest first, in pages."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from bandit_server.errors import Invalid, RunDeleted, RunNotFound
from bandit_server.replica import snapshots
from bandit_server.replica.runs import Runs
from bandit_server.rpc import validation
from bandit_server.run import summary
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

LARGEST_PAGE = 500
# Summaries cached, so that a list that is shown often is not read anew. One of a run that has moved on is replaced.
CACHED_SUMMARIES = 10_000


class Listing:
    """Pages of the runs in this replica's store."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        # By run: version, incarnation and fingerprint of the last event, and the serialized summary (smaller than one
        # that is parsed).
        self._cache: OrderedDict[str, tuple[int, str, str, bytes]] = OrderedDict()

    async def page(self, size: int, token: str) -> pb.ListRunsResponse:
        """Return one page of runs.

        Args:
            size: The most runs of the page; 0 for LARGEST_PAGE.
            token: `next_page_token` of the previous page; empty for the first.

        Raises:
            Invalid: The token is of no page.
        """
        size = min(size or LARGEST_PAGE, LARGEST_PAGE)
        rows = await self._runs.store.names(size + 1, _position(token))
        names = [name for _, name in rows[:size]]
        summaries = await self._summaries(names)
        workers = [(run.run, worker.worker) for run in summaries for worker in run.workers]
        heartbeats = await self._runs.store.heartbeats(workers)
        page = pb.ListRunsResponse(runs=[summary.with_heartbeats(run, heartbeats) for run in summaries])
        if len(rows) > size:
            created, name = rows[size - 1]
            page.next_page_token = f"{created!r}/{name}"
        return page

    async def _summaries(self, names: Sequence[str]) -> list[pb.RunSummary]:
        # A name is listed shortly before the run's first event and after its deletion: then it has no run.
        heads = {
            name: head
            for name, head in zip(names, await self._runs.store.heads(names), strict=True)
            if head.version and not head.deleted
        }
        missing = [name for name, head in heads.items() if not self._is_cached(name, head)]
        fields = [snapshots.METADATA, snapshots.SUMMARY]
        stored = dict(zip(missing, await self._runs.store.load_snapshots(missing, fields), strict=True))
        for name in missing:
            head = heads[name]
            line = snapshots.read_summary(name, stored[name], head)
            if line is None:
                try:
                    state = self._runs.cached_state(name, head) or await self._runs.state(name)
                except (RunNotFound, RunDeleted):
                    del heads[name]
                    continue
                line = summary.summary(state)
            self._cache[name] = (line.version, line.incarnation, head.last if line.version == head.version else "",
                                 line.SerializeToString())  # fmt: skip
        for name in heads:
            self._cache.move_to_end(name)
        summaries = [pb.RunSummary.FromString(self._cache[name][-1]) for name in heads]
        while len(self._cache) > CACHED_SUMMARIES:
            self._cache.popitem(last=False)
        return summaries

    def _is_cached(self, name: str, head: Head) -> bool:
        return self._cache.get(name, ())[:-1] == (head.version, head.incarnation, head.last)


def _position(token: str) -> tuple[float, str] | None:
    """Parse a page token into (creation, name) of the last run before the page."""
    if not token:
        return None
    created, _, name = token.partition("/")
    try:
        seconds = float(created)
        validation.check_name(name, "run")
    except (ValueError, Invalid):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise Invalid("invalid page_token; pass the next_page_token of the previous response")
    return seconds, name
