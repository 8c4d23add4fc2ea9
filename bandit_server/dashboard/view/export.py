"""A run's history as tables for spreadsheets and notebooks, the same from the command line and the browser. Pure.

pulls      one row per pull: worker, arm, outcome and what was measured
posterior  one row per arm and posterior that the server sent
losses     one row per measured number: losses, loss terms and task metrics
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Literal

from google.protobuf import json_format

from bandit_server.dashboard.view.event_log import CHOSEN_BY
from bandit_server.dashboard.view.series import finite
from protos.optima.v1 import bandit_pb2 as pb

Table = Literal["pulls", "posterior", "losses"]
Format = Literal["csv", "json"]
Value = str | int | float | None

COLUMNS: dict[Table, tuple[str, ...]] = {
    "pulls": ("pull", "worker", "round", "arm", "chosen_by", "outcome", "selected", "reported", "before", "after",
              "total_loss", "reward", "steps", "seconds", "probe_seconds", "train_loss"),
    "posterior": ("version", "pull", "rewards", "arm", "mean", "sd", "p_best"),
    "losses": ("pull", "worker", "round", "arm", "training_seconds", "kind", "name", "value"),
}  # fmt: skip


class RunTables:
    """The tables of a run, filled batch by batch.

    Times are Unix seconds. `training_seconds` is the training time of the run until then, summed over all workers.
    """

    def __init__(self) -> None:
        self._pulls: dict[int, dict[str, Value]] = {}
        self._posterior: list[tuple[Value, ...]] = []
        self._losses: list[tuple[Value, ...]] = []
        self._arms: list[str] = []
        self._version = 0
        self._highest = -1
        self._seconds = 0.0

    def add(self, batch: pb.WatchRunResponse) -> None:
        """Add the next batch of WatchRun, which must have been called from version 0."""
        self._arms = self._arms or [arm.name for arm in batch.run.spec.arms]
        points = iter(batch.posterior)
        point = next(points, None)
        for event in batch.events:
            self._version += 1
            if event.HasField("arm_pulled"):
                self._pull(event.arm_pulled.pull, event.time)
            elif event.HasField("reward_reported"):
                self._report(event.reward_reported, event.time)
            elif event.HasField("worker_started") and event.worker_started.info.HasField("total_loss"):
                started = event.worker_started
                self._losses.append((None, started.worker, None, "", self._seconds, "loss", "total_loss",
                                     finite(started.info.total_loss)))  # fmt: skip
            while point is not None and point.version <= self._version:
                for arm, mean, sd, chance in zip(self._arms, point.mean, point.sd, point.p_best, strict=False):
                    self._posterior.append((point.version, self._highest, point.rewards, arm, mean, sd, chance))
                point = next(points, None)

    def rows(self, table: Table) -> Iterator[tuple[Value, ...]]:
        """Yield the rows of a table, with values in the order of its COLUMNS."""
        if table == "pulls":
            for number in sorted(self._pulls):
                pull = self._pulls[number]
                yield tuple(pull.get(column) for column in COLUMNS["pulls"])
        else:
            yield from self._posterior if table == "posterior" else self._losses

    def _pull(self, pull: pb.Pull, time: float | None) -> dict[str, Value]:
        self._highest = max(self._highest, pull.number)
        return self._pulls.setdefault(
            pull.number,
            {"pull": pull.number, "worker": pull.worker, "round": pull.round, "arm": pull.arm,
             "chosen_by": CHOSEN_BY.get(pull.chosen_by, ""), "outcome": "open", "selected": time},
        )  # fmt: skip

    def _report(self, report: pb.RewardReported, time: float) -> None:
        measured, pull = report.measurement, report.pull
        diverged = measured.outcome == pb.OUTCOME_DIVERGED
        if report.HasField("superseded") and report.superseded in self._pulls:
            self._pulls[report.superseded]["outcome"] = "superseded"
        self._seconds += finite(measured.seconds) or 0.0
        losses: dict[str, float] = {} if diverged else {"before": measured.before, "after": measured.after}
        for name in ("total_loss", "train_loss"):
            if measured.HasField(name):
                losses[name] = getattr(measured, name)
        row = self._pull(pull, None)
        row.update({name: finite(value) for name, value in losses.items()})
        row.update(
            outcome="diverged" if diverged else "measured", reported=time, steps=measured.steps,
            seconds=finite(measured.seconds), probe_seconds=finite(measured.probe_seconds),
            reward=finite(report.reward) if report.HasField("reward") else None,
        )  # fmt: skip
        groups = [("loss", losses), ("term", measured.terms), ("metric", measured.metrics)]
        for kind, values in groups:
            for name, value in sorted(values.items()):
                prefix = (pull.number, pull.worker, pull.round, pull.arm, self._seconds)
                self._losses.append((*prefix, kind, name, finite(value)))


def format_rows(table: Table, form: Format, rows: Iterable[tuple[Value, ...]]) -> Iterator[str]:
    """Yield a table as text, row by row: CSV with a header, or a JSON array with one object per line."""
    columns = COLUMNS[table]
    if form == "csv":
        line = io.StringIO()
        writer = csv.writer(line, lineterminator="\n")
        for row in itertools.chain([columns], rows):
            writer.writerow(row)
            yield line.getvalue()
            line.seek(0)
            line.truncate()
        return
    before = "[\n"
    for row in rows:
        yield before + json.dumps(dict(zip(columns, row, strict=True)), allow_nan=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def event_line(event: pb.Event) -> str:
    """Return an event of the history as one line of JSON."""
    return json_format.MessageToJson(event, preserving_proto_field_name=True, indent=None) + "\n"
