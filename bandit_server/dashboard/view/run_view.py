"""One run as the dashboard sees it: the fold of what WatchRun sends. No clock, no socket, no browser.

Everything is drawn over pull numbers, the one count that all workers of a run share, or over the seconds that they
have trained. A browser that comes late gets `snapshot`, thinned to what a chart can show; then it gets `since`,
exactly what is new.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

from bandit_server.dashboard.view.event_log import EventLog
from bandit_server.dashboard.view.series import ArmTotals, Series, Shares, finite, number
from bandit_server.dashboard.view.summaries import run_detail
from protos.optima.v1 import bandit_pb2 as pb

# How a pull stands, as bits: several can be true of one.
OPEN, FALLBACK, TAIL, DIVERGED, SUPERSEDED = 1, 2, 4, 8, 16
CHOSEN = {pb.CHOSEN_BY_FALLBACK: FALLBACK, pb.CHOSEN_BY_TAIL: TAIL}

# The name of the line that a user judges by.
TOTAL = "total distillation loss"

Cell = list[Any]

# What a page wants of a run: all of it, or the lines that are laid beside those of other runs.
Part = Literal["all", "lines"]
COMPARED = frozenset({"total", "bandit", "term", "metric"})
# Points that a line is thinned to at least, however many lines there are.
FEWEST = 500


@dataclass(slots=True)
class PullRow:
    """One pull: who, which arm (an index into `RunView.arm_names`), how it stands, and from when to when it was
    trained, in seconds of training of the run (while it is open, both when it was chosen)."""

    number: int
    worker: int
    round: int
    arm: int
    marks: int
    begin: float
    end: float


class RunView:
    """A run's history and standing, kept up to date by `apply`."""

    def __init__(self) -> None:
        self.run: pb.RunSummary | None = None
        self.received = 0.0
        # Counts how often history was forgotten; a cursor of another epoch is worth nothing.
        self.epoch = 0
        self._forget()

    def _forget(self) -> None:
        self.version = 0
        self.incarnation = ""
        # The spec's arms first, then the tail's, joint, where it is not one of them.
        self.arm_names: list[str] = []
        self._arms = 0
        self.worker_ids: list[str] = []
        self.pulls: dict[int, PullRow] = {}
        self._shares = Shares()
        # By chart, name and index of what is drawn; those of arms share their points.
        self.series: dict[tuple[str, str, int], Series] = {("share", "", 0): self._shares}
        self.log = EventLog()
        self._totals = ArmTotals()
        self._highest = -1
        self._changed_at: list[int] = []
        self._changed: list[int] = []
        self._posterior_version = 0

    def apply(self, batch: pb.WatchRunResponse, received: float) -> None:
        """Fold one batch. `received`: Unix seconds, kept to show ages.

        ValueError: the batch does not follow on what was folded before; watch again from the start.
        """
        if batch.from_version == 0 and batch.events and self.version:
            self._forget()
            self.epoch += 1
        if batch.events and batch.from_version != self.version:
            raise ValueError(f"expected history from version {self.version}, got it from {batch.from_version}")
        self.run, self.received = batch.run, received
        self.incarnation = batch.run.incarnation
        if not self.arm_names:
            self._arms = len(batch.run.spec.arms)
            for arm in batch.run.spec.arms:
                self._arm(arm.name)
        points = list(batch.posterior)
        at = 0
        for event in batch.events:
            self.version += 1
            self._event(event)
            while at < len(points) and points[at].version <= self.version:
                self._posterior(points[at])
                at += 1

    def _event(self, event: pb.Event) -> None:
        self.log.add(self.version, event)
        kind = event.WhichOneof("kind")
        if kind == "worker_started":
            self._started(event.worker_started)
        elif kind == "arm_pulled":
            self._pull(event.arm_pulled.pull, OPEN)
        elif kind == "reward_reported":
            self._report(event.reward_reported)

    def _started(self, started: pb.WorkerStarted) -> None:
        worker, info = self._worker(started.worker), started.info
        if info.HasField("total_loss") and ("total", TOTAL, worker) not in self.series:
            # Its student before its first round.
            self._add("total", TOTAL, worker, self._highest, info.total_loss)

    def _report(self, report: pb.RewardReported) -> None:
        measured = report.measurement
        diverged = measured.outcome == pb.OUTCOME_DIVERGED
        decrement = 0.0 if diverged else measured.before - measured.after
        begin = self._totals.seconds
        arm = self._arm(report.pull.arm)
        bought, spent = self._totals.add(arm, finite(decrement) or 0.0, finite(measured.seconds) or 0.0)
        marks = CHOSEN.get(report.pull.chosen_by, 0) | (DIVERGED if diverged else 0)
        row = self._pull(report.pull, marks, begin)
        if report.HasField("superseded") and (old := self.pulls.get(report.superseded)) is not None:
            old.marks = SUPERSEDED
            self._touch(old.number)
        self._add("spent", report.pull.arm, arm, self._highest, bought, spent)
        losses = (None, None) if diverged else (measured.before, measured.after)
        self._add("bandit", "bandit loss", row.worker, row.number, *losses)
        if diverged or measured.HasField("total_loss"):
            self._add("total", TOTAL, row.worker, row.number, None if diverged else measured.total_loss)
        for chart, values in (("term", measured.terms), ("metric", measured.metrics)):
            for name, value in values.items():
                self._add(chart, name, row.worker, row.number, value)

    def _posterior(self, point: pb.PosteriorPoint) -> None:
        """What was believed after the highest pull so far; of several beliefs the last stands, as it chose next."""
        if point.version <= self._posterior_version or self._highest < 0:
            return
        self._posterior_version = point.version
        arms = self._arms
        if len(point.mean) not in (0, arms) or len(point.sd) != len(point.mean):
            raise ValueError(f"expected a posterior of {arms} arms, got {len(point.mean)} means")
        told = [("posterior", [*point.mean, *point.sd], len(point.mean)), ("best", point.p_best, len(point.p_best))]
        for chart, values, width in told:
            if width != arms:
                continue
            if (chart, "", 0) not in self.series:
                lines = [(name, at, range(at, len(values), arms)) for at, name in enumerate(self.arm_names[:arms])]
                self.series[chart, "", 0] = Series(chart, lines, len(values))
            self.series[chart, "", 0].add(self.version, self._highest, self._totals.seconds, values)

    def _pull(self, pull: pb.Pull, marks: int, begin: float | None = None) -> PullRow:
        arm, now = self._arm(pull.arm), self._totals.seconds
        row = PullRow(
            pull.number, self._worker(pull.worker), pull.round, arm, marks, now if begin is None else begin, now
        )
        self._highest = max(self._highest, row.number)
        if row.number not in self.pulls:
            self._shares.add(self.version, row.number, now, (arm,))
        self.pulls[row.number] = row
        self._touch(row.number)
        return row

    def _touch(self, number: int) -> None:
        self._changed_at.append(self.version)
        self._changed.append(number)

    def _add(self, chart: str, name: str, index: int, x: int, *values: float | None) -> None:
        key = (chart, name, index)
        if key not in self.series:
            self.series[key] = Series(chart, [(name, index, range(len(values)))], len(values))
        self.series[key].add(self.version, x, self._totals.seconds, [number(value) for value in values])

    def _worker(self, worker: str) -> int:
        return _index(self.worker_ids, worker)

    def _arm(self, arm: str) -> int:
        at = _index(self.arm_names, arm)
        if at == len(self._shares.lines):
            self._shares.lines.append((arm, at, (at,)))
        return at

    def snapshot(self, limit: int, part: Part = "all") -> dict[str, Any]:
        """The whole run with at most `limit` columns of pulls, and lines of about as many points as all fit."""
        shown = self._lines(part)
        points = max(FEWEST, 3 * limit // max(1, sum(len(series.lines) for series in shown)))
        lines = [line for series in shown for line in series.thinned(points)]
        cells, log = (self._cells(limit), self.log.page()) if part == "all" else ([], [])
        return {**self._head(), "reset": True, "cells": cells, "series": lines, "log": log}

    def since(self, version: int, part: Part = "all") -> dict[str, Any]:
        """What came after a version: changed pulls, new points, and the standing of everything else."""
        lines = [line for series in self._lines(part) for line in series.since(version)]
        cells, log = [], []
        if part == "all":
            start = bisect_right(self._changed_at, version)
            cells = [_cell(self.pulls[number]) for number in dict.fromkeys(self._changed[start:])]
            log = self.log.page(after=version)
        return {**self._head(), "reset": False, "cells": cells, "series": lines, "log": log}

    def _lines(self, part: Part) -> list[Series]:
        return [series for series in self.series.values() if series and (part == "all" or series.chart in COMPARED)]

    def _head(self) -> dict[str, Any]:
        assert self.run is not None, "a view is shown only after its first batch"
        return {
            "version": self.version,
            "run": run_detail(self.run, self.received),
            "arm_names": self.arm_names,
            "worker_ids": self.worker_ids,
            "highest": self._highest,
            "seconds": round(self._totals.seconds, 3),
        }

    def _cells(self, limit: int) -> list[Cell]:
        """[first pull, last pull, worker, arm, marks, how many, begin, end] for the raster; open pulls stay single."""
        width = -(-(self._highest + 1) // limit)
        if width <= 1:
            return [_cell(row) for row in self.pulls.values()]
        bins: dict[tuple[int, int, int, int], Cell] = {}
        single = []
        for row in self.pulls.values():
            if row.marks & OPEN:
                single.append(_cell(row))
                continue
            cell = bins.setdefault((row.number // width, row.worker, row.arm, row.marks), _cell(row, count=0))
            cell[0], cell[1] = min(cell[0], row.number), max(cell[1], row.number)
            cell[5] += 1
            cell[6], cell[7] = min(cell[6], row.begin), max(cell[7], row.end)
        return [*bins.values(), *single]


def _cell(row: PullRow, count: int = 1) -> Cell:
    begin, end = round(row.begin, 3), round(row.end, 3)
    return [row.number, row.number, row.worker, row.arm, row.marks, count, begin, end]


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
