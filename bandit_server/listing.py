"""All runs, newest first, a page at a time."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence

from bandit_server import checks
from bandit_server.errors import Invalid, RunDeleted, RunNotFound
from bandit_server.run import summary
from bandit_server.runs import Runs
from bandit_server.store.base import Head
from protos.optima.v1 import bandit_pb2 as pb

LARGEST_PAGE = 500
# Summaries kept, so that a list that is looked at often costs no fold; of a run that has moved on another is made.
SUMMARIES_KEPT = 10_000


class Listing:
    """Pages of runs, as this replica's store has them."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._kept: OrderedDict[str, tuple[Head, pb.RunSummary]] = OrderedDict()

    async def page(self, size: int, token: str) -> pb.ListRunsResponse:
        """At most `size` runs (0: the most there may be) after those of the page whose token this is."""
        size = min(size or LARGEST_PAGE, LARGEST_PAGE)
        rows = await self._runs.store.names(size + 1, _position(token))
        names = [name for _, name in rows[:size]]
        told = await self._summaries(names)
        workers = [(run.run, worker.worker) for run in told for worker in run.workers]
        pulses = await self._runs.store.pulses(workers)
        page = pb.ListRunsResponse(runs=[summary.with_pulses(run, pulses) for run in told])
        if len(rows) > size:
            created, name = rows[size - 1]
            page.next_page_token = f"{created!r}/{name}"
        return page

    async def _summaries(self, names: Sequence[str]) -> list[pb.RunSummary]:
        told = []
        for name, head in zip(names, await self._runs.store.heads(names), strict=True):
            # Listed before its first event, or until after its deletion, a name may have no run.
            if head.version == 0 or head.deleted:
                continue
            kept = self._kept.get(name)
            if kept is None or kept[0] != head:
                try:
                    state = await self._runs.state(name)
                except (RunNotFound, RunDeleted):
                    continue
                kept = Head(state.version, state.incarnation, False), summary.summary(state)
                self._kept[name] = kept
            self._kept.move_to_end(name)
            told.append(kept[1])
        while len(self._kept) > SUMMARIES_KEPT:
            self._kept.popitem(last=False)
        return told


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
