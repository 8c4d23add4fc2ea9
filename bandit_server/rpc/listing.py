"""All runs, newest first, a page at a time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from bandit_server.errors import Invalid, RunDeleted, RunNotFound
from bandit_server.replica import snapshots
from bandit_server.replica.runs import Runs
from bandit_server.rpc import validation as checks
from bandit_server.run import summary
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

LARGEST_PAGE = 500
# Summaries kept, so that a list that is looked at often is not read anew; one of a run that has moved on is another.
SUMMARIES_KEPT = 10_000


class Listing:
    """Pages of runs, as this replica's store has them."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        # By run: version, incarnation and fingerprint of the last event, and the summary as bytes, which are smaller.
        self._kept: OrderedDict[str, tuple[int, str, str, bytes]] = OrderedDict()

    async def page(self, size: int, token: str) -> pb.ListRunsResponse:
        """At most `size` runs (0: the most there may be) after those of the page whose token this is."""
        size = min(size or LARGEST_PAGE, LARGEST_PAGE)
        rows = await self._runs.store.names(size + 1, _position(token))
        names = [name for _, name in rows[:size]]
        told = await self._summaries(names)
        workers = [(run.run, worker.worker) for run in told for worker in run.workers]
        heartbeats = await self._runs.store.heartbeats(workers)
        page = pb.ListRunsResponse(runs=[summary.with_heartbeats(run, heartbeats) for run in told])
        if len(rows) > size:
            created, name = rows[size - 1]
            page.next_page_token = f"{created!r}/{name}"
        return page

    async def _summaries(self, names: Sequence[str]) -> list[pb.RunSummary]:
        # Listed before its first event, or until after its deletion, a name may have no run.
        heads = {
            name: head
            for name, head in zip(names, await self._runs.store.heads(names), strict=True)
            if head.version and not head.deleted
        }
        unknown = [name for name, head in heads.items() if not self._knows(name, head)]
        fields = [snapshots.METADATA, snapshots.SUMMARY]
        kept = dict(zip(unknown, await self._runs.store.load_snapshots(unknown, fields), strict=True))
        for name in unknown:
            head = heads[name]
            line = snapshots.read_summary(name, kept[name], head)
            if line is None:
                try:
                    state = self._runs.cached_state(name, head) or await self._runs.state(name)
                except (RunNotFound, RunDeleted):
                    del heads[name]
                    continue
                line = summary.summary(state)
            self._kept[name] = (line.version, line.incarnation, head.last if line.version == head.version else "",
                                line.SerializeToString())  # fmt: skip
        for name in heads:
            self._kept.move_to_end(name)
        told = [pb.RunSummary.FromString(self._kept[name][-1]) for name in heads]
        while len(self._kept) > SUMMARIES_KEPT:
            self._kept.popitem(last=False)
        return told

    def _knows(self, name: str, head: Head) -> bool:
        return self._kept.get(name, ())[:-1] == (head.version, head.incarnation, head.last)


def _position(token: str) -> tuple[float, str] | None:
    """Where a page starts: (creation, name) of the last run before it."""
    if not token:
        return None
    created, _, name = token.partition("/")
    try:
        at = float(created)
        checks.name(name, "run")
    except (ValueError, Invalid):
        at = math.nan
    if not math.isfinite(at):
        raise Invalid("page_token is none that ListRuns has given")
    return at, name
