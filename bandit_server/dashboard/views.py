"""One run as the dashboard sees it: the fold of what WatchRun sends. No clock, no socket, no browser.

Everything is drawn over pull numbers, the one count that all workers of a run share. A browser that comes late
gets `snapshot`, thinned to what a chart can show; then it gets `since`, exactly what is new.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

from bandit_server.dashboard.rows import run_detail
from bandit_server.dashboard.series import Series
from protos.optima.v1 import bandit_pb2 as pb

# How a pull stands, as bits: several can be true of one.
OPEN, FALLBACK, TAIL, DIVERGED, SUPERSEDED = 1, 2, 4, 8, 16
CHOSEN = {pb.CHOSEN_BY_FALLBACK: FALLBACK, pb.CHOSEN_BY_TAIL: TAIL}

# Half the width of a 90 % interval of the normal distribution, in standard deviations.
BAND_90 = 1.6448536269514722


@dataclass(slots=True)
class PullRow:
    """One pull: who, which arm (an index into `RunView.arm_names`), and how it stands."""

    number: int
    worker: int
    round: int
    arm: int
    marks: int


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
        self.series: dict[tuple[str, str, int], Series] = {}
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
            self.arm_names = [arm.name for arm in batch.run.spec.arms]
            self._arms = len(self.arm_names)
        points = list(batch.posterior)
        at = 0
        for event in batch.events:
            self.version += 1
            self._event(event)
            while at < len(points) and points[at].version <= self.version:
                self._posterior(points[at])
                at += 1

    def _event(self, event: pb.Event) -> None:
        kind = event.WhichOneof("kind")
        if kind == "worker_started":
            self._worker(event.worker_started.worker)
        elif kind == "arm_pulled":
            self._pull(event.arm_pulled.pull, OPEN)
        elif kind == "reward_reported":
            self._report(event.reward_reported)

    def _report(self, report: pb.RewardReported) -> None:
        diverged = report.measurement.outcome == pb.OUTCOME_DIVERGED
        marks = CHOSEN.get(report.pull.chosen_by, 0) | (DIVERGED if diverged else 0)
        row = self._pull(report.pull, marks)
        if report.HasField("superseded") and (old := self.pulls.get(report.superseded)) is not None:
            old.marks = SUPERSEDED
            self._touch(old.number)
        measured = report.measurement
        losses = (None, None) if diverged else (measured.before, measured.after)
        self._add("bandit", "bandit loss", row.worker, row.number, *losses)
        if diverged or measured.HasField("total_loss"):
            total = None if diverged else measured.total_loss
            self._add("total", "total distillation loss", row.worker, row.number, total)
        for name, value in measured.metrics.items():
            self._add("metric", name, row.worker, row.number, value)

    def _posterior(self, point: pb.PosteriorPoint) -> None:
        """What was believed after the highest pull so far; of several beliefs the last stands, as it chose next."""
        if point.version <= self._posterior_version or self._highest < 0:
            return
        self._posterior_version = point.version
        if len(point.mean) not in (0, self._arms) or len(point.sd) != len(point.mean):
            raise ValueError(f"expected a posterior of {self._arms} arms, got {len(point.mean)} means")
        for arm, (mean, sd) in enumerate(zip(point.mean, point.sd, strict=True)):
            low, high = mean - BAND_90 * sd, mean + BAND_90 * sd
            self._add("posterior", self.arm_names[arm], arm, self._highest, mean, low, high)

    def _pull(self, pull: pb.Pull, marks: int) -> PullRow:
        row = PullRow(pull.number, self._worker(pull.worker), pull.round, self._arm(pull.arm), marks)
        self.pulls[row.number] = row
        self._highest = max(self._highest, row.number)
        self._touch(row.number)
        return row

    def _touch(self, number: int) -> None:
        self._changed_at.append(self.version)
        self._changed.append(number)

    def _add(self, chart: str, name: str, index: int, x: int, *values: float | None) -> None:
        key = (chart, name, index)
        if key not in self.series:
            self.series[key] = Series(chart, name, index, [[] for _ in values])
        self.series[key].add(self.version, x, *values)

    def _worker(self, worker: str) -> int:
        return _index(self.worker_ids, worker)

    def _arm(self, arm: str) -> int:
        return _index(self.arm_names, arm)

    def snapshot(self, limit: int) -> dict[str, Any]:
        """The whole run with at most `limit` columns of pulls and about 3 · `limit` points in all its lines."""
        points = max(250, 3 * limit // max(1, len(self.series)))
        series = [line.thinned(points) for line in self.series.values()]
        return {**self._head(), "reset": True, "cells": self._cells(limit), "series": series}

    def since(self, version: int) -> dict[str, Any]:
        """What came after a version: changed pulls, new points, and the standing of everything else."""
        start = bisect_right(self._changed_at, version)
        cells = [_cell(self.pulls[number]) for number in dict.fromkeys(self._changed[start:])]
        series = [new for line in self.series.values() if (new := line.since(version)) is not None]
        return {**self._head(), "reset": False, "cells": cells, "series": series}

    def _head(self) -> dict[str, Any]:
        assert self.run is not None, "a view is shown only after its first batch"
        return {
            "version": self.version,
            "run": run_detail(self.run, self.received),
            "arm_names": self.arm_names,
            "worker_ids": self.worker_ids,
            "highest": self._highest,
        }

    def _cells(self, limit: int) -> list[list[int]]:
        """[first pull, last pull, worker, arm, marks, how many] for the raster; open pulls stay single."""
        width = -(-(self._highest + 1) // limit)
        if width <= 1:
            return [_cell(row) for row in self.pulls.values()]
        bins: dict[tuple[int, int, int, int], list[int]] = {}
        single = []
        for row in self.pulls.values():
            if row.marks & OPEN:
                single.append(_cell(row))
                continue
            cell = bins.setdefault((row.number // width, row.worker, row.arm, row.marks), _cell(row, count=0))
            cell[0], cell[1] = min(cell[0], row.number), max(cell[1], row.number)
            cell[5] += 1
        return [*bins.values(), *single]


def _cell(row: PullRow, count: int = 1) -> list[int]:
    return [row.number, row.number, row.worker, row.arm, row.marks, count]


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
