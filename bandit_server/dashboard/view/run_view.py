"""The state of one run as its page shows it, folded from the messages of WatchRun. Pure: no clock, no network.

Charts are drawn over pull numbers, which all workers of a run share, or over training time. A browser first gets a
`snapshot`, thinned to what a chart can show, and then with `since` only what is new.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

from bandit_server.dashboard.view.event_log import EventLog
from bandit_server.dashboard.view.series import ArmTotals, Series, Shares, finite, finite_or_nan
from bandit_server.dashboard.view.summaries import run_detail
from protos.optima.v1 import bandit_pb2 as pb

# Flags of a pull; several can be set.
OPEN, FALLBACK, TAIL, DIVERGED, SUPERSEDED = 1, 2, 4, 8, 16
CHOSEN_BY_FLAGS = {pb.CHOSEN_BY_FALLBACK: FALLBACK, pb.CHOSEN_BY_TAIL: TAIL}

# The name of the line of the total loss, by which users judge a run.
TOTAL = "total distillation loss"

# [first pull, last pull, worker, arm, flags, number of pulls, begin, end]: a mark of the raster.
Cell = list[Any]

# What a page needs of a run: everything, or only the lines that are compared with other runs.
Selection = Literal["all", "lines"]
COMPARED = frozenset({"total", "bandit", "term", "metric"})
# A line is never thinned to fewer points, however many lines there are.
MIN_POINTS = 500


@dataclass(slots=True)
class PullRow:
    """One pull.

    Attributes:
        number: Pull number.
        worker: Index into `RunView.worker_ids`.
        round: Round of the worker.
        arm: Index into `RunView.arm_names`.
        flags: Sum of OPEN, FALLBACK, TAIL, DIVERGED and SUPERSEDED.
        begin: Training time of the run when the round began, in seconds. Of an open pull: when it was chosen.
        end: Training time of the run when the round ended, in seconds. Of an open pull: the same as `begin`.
    """

    number: int
    worker: int
    round: int
    arm: int
    flags: int
    begin: float
    end: float


class RunView:
    """The history and the current state of a run, kept up to date by `apply`."""

    def __init__(self) -> None:
        self.run: pb.RunSummary | None = None
        self.received = 0.0
        # Number of times that the history was discarded. A cursor of an earlier epoch is useless.
        self.epoch = 0
        self._clear()

    def _clear(self) -> None:
        self.version = 0
        self.incarnation = ""
        # The arms of the spec, then `joint`, the arm of the tail, unless the spec has it.
        self.arm_names: list[str] = []
        self._arms = 0
        self.worker_ids: list[str] = []
        self.pulls: dict[int, PullRow] = {}
        self._shares = Shares()
        # By (chart, name, index). A chart whose lines share their points has one Series for all of its arms.
        self.series: dict[tuple[str, str, int], Series] = {("share", "", 0): self._shares}
        self.log = EventLog()
        self._totals = ArmTotals()
        self._highest = -1
        self._changed_at: list[int] = []
        self._changed: list[int] = []
        self._posterior_version = 0

    def apply(self, batch: pb.WatchRunResponse, received: float) -> None:
        """Fold one batch into the view.

        Args:
            batch: The next message of WatchRun.
            received: Unix seconds at which the batch arrived; ages are relative to it.

        Raises:
            ValueError: The batch does not continue the history; watch the run again from its start.
        """
        if batch.from_version == 0 and batch.events and self.version:
            self._clear()
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
            self._apply_event(event)
            while at < len(points) and points[at].version <= self.version:
                self._add_posterior(points[at])
                at += 1

    def _apply_event(self, event: pb.Event) -> None:
        self.log.add(self.version, event)
        kind = event.WhichOneof("kind")
        if kind == "worker_started":
            self._add_worker(event.worker_started)
        elif kind == "arm_pulled":
            self._add_pull(event.arm_pulled.pull, OPEN)
        elif kind == "reward_reported":
            self._add_report(event.reward_reported)

    def _add_worker(self, started: pb.WorkerStarted) -> None:
        worker, info = self._worker(started.worker), started.info
        if info.HasField("total_loss") and ("total", TOTAL, worker) not in self.series:
            # The loss of its student before the first round.
            self._add_point("total", TOTAL, worker, self._highest, info.total_loss)

    def _add_report(self, report: pb.RewardReported) -> None:
        measured = report.measurement
        diverged = measured.outcome == pb.OUTCOME_DIVERGED
        decrement = 0.0 if diverged else measured.before - measured.after
        begin = self._totals.seconds
        arm = self._arm(report.pull.arm)
        total_decrement, total_seconds = self._totals.add(
            arm, finite(decrement) or 0.0, finite(measured.seconds) or 0.0
        )
        flags = CHOSEN_BY_FLAGS.get(report.pull.chosen_by, 0) | (DIVERGED if diverged else 0)
        row = self._add_pull(report.pull, flags, begin)
        if report.HasField("superseded") and (old := self.pulls.get(report.superseded)) is not None:
            old.flags = SUPERSEDED
            self._mark_changed(old.number)
        self._add_point("spent", report.pull.arm, arm, self._highest, total_decrement, total_seconds)
        losses = (None, None) if diverged else (measured.before, measured.after)
        self._add_point("bandit", "bandit loss", row.worker, row.number, *losses)
        if diverged or measured.HasField("total_loss"):
            self._add_point("total", TOTAL, row.worker, row.number, None if diverged else measured.total_loss)
        for chart, values in (("term", measured.terms), ("metric", measured.metrics)):
            for name, value in values.items():
                self._add_point(chart, name, row.worker, row.number, value)

    def _add_posterior(self, point: pb.PosteriorPoint) -> None:
        """Draw a posterior at the highest pull so far. The last posterior at a pull wins: it chose the next arm."""
        if point.version <= self._posterior_version or self._highest < 0:
            return
        self._posterior_version = point.version
        arms = self._arms
        if len(point.mean) not in (0, arms) or len(point.sd) != len(point.mean):
            raise ValueError(f"expected a posterior of {arms} arms, got {len(point.mean)} means")
        charts = [("posterior", [*point.mean, *point.sd], len(point.mean)), ("best", point.p_best, len(point.p_best))]
        for chart, values, width in charts:
            if width != arms:
                continue
            if (chart, "", 0) not in self.series:
                lines = [(name, at, range(at, len(values), arms)) for at, name in enumerate(self.arm_names[:arms])]
                self.series[chart, "", 0] = Series(chart, lines, len(values))
            self.series[chart, "", 0].add(self.version, self._highest, self._totals.seconds, values)

    def _add_pull(self, pull: pb.Pull, flags: int, begin: float | None = None) -> PullRow:
        arm, now = self._arm(pull.arm), self._totals.seconds
        row = PullRow(
            pull.number, self._worker(pull.worker), pull.round, arm, flags, now if begin is None else begin, now
        )
        self._highest = max(self._highest, row.number)
        if row.number not in self.pulls:
            self._shares.add(self.version, row.number, now, (arm,))
        self.pulls[row.number] = row
        self._mark_changed(row.number)
        return row

    def _mark_changed(self, number: int) -> None:
        self._changed_at.append(self.version)
        self._changed.append(number)

    def _add_point(self, chart: str, name: str, index: int, x: int, *values: float | None) -> None:
        key = (chart, name, index)
        if key not in self.series:
            self.series[key] = Series(chart, [(name, index, range(len(values)))], len(values))
        self.series[key].add(self.version, x, self._totals.seconds, [finite_or_nan(value) for value in values])

    def _worker(self, worker: str) -> int:
        return _index(self.worker_ids, worker)

    def _arm(self, arm: str) -> int:
        at = _index(self.arm_names, arm)
        if at == len(self._shares.lines):
            self._shares.lines.append((arm, at, (at,)))
        return at

    def snapshot(self, limit: int, selection: Selection = "all") -> dict[str, Any]:
        """Return the whole run, thinned.

        Args:
            limit: Columns of pulls at most; the lines together get about 3 · limit points.
            selection: "lines" leaves out what only the run's own page shows.
        """
        shown = self._series_of(selection)
        points = max(MIN_POINTS, 3 * limit // max(1, sum(len(series.lines) for series in shown)))
        lines = [line for series in shown for line in series.thinned(points)]
        cells, log = (self._cells(limit), self.log.page()) if selection == "all" else ([], [])
        return {**self._head(), "reset": True, "cells": cells, "series": lines, "log": log}

    def since(self, version: int, selection: Selection = "all") -> dict[str, Any]:
        """Return changed pulls, new points and new events after a version, and the current state of all else."""
        lines = [line for series in self._series_of(selection) for line in series.since(version)]
        cells, log = [], []
        if selection == "all":
            start = bisect_right(self._changed_at, version)
            cells = [_cell(self.pulls[number]) for number in dict.fromkeys(self._changed[start:])]
            log = self.log.page(after=version)
        return {**self._head(), "reset": False, "cells": cells, "series": lines, "log": log}

    def _series_of(self, selection: Selection) -> list[Series]:
        return [
            series for series in self.series.values() if series and (selection == "all" or series.chart in COMPARED)
        ]

    def _head(self) -> dict[str, Any]:
        assert self.run is not None, "apply the first batch before rendering the view"
        return {
            "version": self.version,
            "run": run_detail(self.run, self.received),
            "arm_names": self.arm_names,
            "worker_ids": self.worker_ids,
            "highest": self._highest,
            "seconds": round(self._totals.seconds, 3),
        }

    def _cells(self, limit: int) -> list[Cell]:
        """Return the marks of the raster: at most `limit` columns, in which only open pulls are not merged."""
        width = -(-(self._highest + 1) // limit)
        if width <= 1:
            return [_cell(row) for row in self.pulls.values()]
        bins: dict[tuple[int, int, int, int], Cell] = {}
        single = []
        for row in self.pulls.values():
            if row.flags & OPEN:
                single.append(_cell(row))
                continue
            cell = bins.setdefault((row.number // width, row.worker, row.arm, row.flags), _cell(row, count=0))
            cell[0], cell[1] = min(cell[0], row.number), max(cell[1], row.number)
            cell[5] += 1
            cell[6], cell[7] = min(cell[6], row.begin), max(cell[7], row.end)
        return [*bins.values(), *single]


def _cell(row: PullRow, count: int = 1) -> Cell:
    begin, end = round(row.begin, 3), round(row.end, 3)
    return [row.number, row.number, row.worker, row.arm, row.flags, count, begin, end]


def _index(names: list[str], name: str) -> int:
    if name not in names:
        names.append(name)
    return names.index(name)
