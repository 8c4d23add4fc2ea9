"""A run's history as rows to read: what happened, when, to whom. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from bandit_server.dashboard.view.series import finite
from protos.optima.v1 import bandit_pb2 as pb

Kind = Literal["created", "worker", "pull", "report", "diverged", "superseded", "arm", "finished", "restored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# A browser is sent as many rows at first; more are asked for.
ROWS = 100


@dataclass(slots=True)
class LogRow:
    """One event. What does not apply to its kind is absent (None or empty).

    `version`: of the run, after the event; `time`: Unix seconds; `by`: who chose the arm, or who asked; `note`: what
    else there is to say; losses and reward as reported, `seconds` of training.
    """

    version: int
    time: float
    kind: Kind
    worker: str = ""
    round: int | None = None
    pull: int | None = None
    arm: str = ""
    by: str = ""
    before: float | None = None
    after: float | None = None
    total: float | None = None
    reward: float | None = None
    seconds: float | None = None
    note: str = ""


CHOSEN = {pb.CHOSEN_BY_POLICY: "policy", pb.CHOSEN_BY_FALLBACK: "fallback", pb.CHOSEN_BY_TAIL: "tail"}


def log_row(version: int, event: pb.Event) -> LogRow | None:
    """The row of an event; none for one of a kind that this dashboard does not know."""
    at, kind = event.time, event.WhichOneof("kind")
    match kind:
        case "run_created":
            return LogRow(version, at, "created", note=f"policy {event.run_created.spec.policy.name}")
        case "worker_started":
            started = event.worker_started
            ranks = f"{started.info.ranks} rank{'s' if started.info.ranks != 1 else ''}" if started.info.ranks else ""
            note = ", ".join(word for word in (started.info.recipe, started.info.device, ranks) if word)
            return LogRow(version, at, "worker", worker=started.worker, note=note)
        case "arm_pulled":
            return LogRow(version, at, "pull", **_pull(event.arm_pulled.pull))
        case "reward_reported":
            return _report(version, at, event.reward_reported)
        case "arm_updated":
            update = event.arm_updated
            note = "paused" if update.paused else "resumed"
            return LogRow(version, at, "arm", arm=update.arm, by=update.actor, note=note)
        case "run_finished":
            return LogRow(version, at, "finished", by=event.run_finished.actor)
        case "run_restored":
            note = f"history after version {event.run_restored.lost_version:,} may be incomplete"
            return LogRow(version, at, "restored", worker=event.run_restored.worker, note=note)
    return None


def _report(version: int, at: float, report: pb.RewardReported) -> LogRow:
    measured = report.measurement
    diverged = measured.outcome == pb.OUTCOME_DIVERGED
    superseded = report.HasField("superseded")
    return LogRow(
        version,
        at,
        "diverged" if diverged else "superseded" if superseded else "report",
        **_pull(report.pull),
        before=None if diverged else finite(measured.before),
        after=None if diverged else finite(measured.after),
        total=finite(measured.total_loss) if measured.HasField("total_loss") else None,
        reward=finite(report.reward) if report.HasField("reward") else None,
        seconds=finite(measured.seconds),
        note=f"in place of pull {report.superseded:,}" if superseded else "",
    )


def _pull(pull: pb.Pull) -> dict[str, Any]:
    by = CHOSEN.get(pull.chosen_by, "")
    return {"worker": pull.worker, "round": pull.round, "pull": pull.number, "arm": pull.arm, "by": by}


class EventLog:
    """The rows of a run's history, in order."""

    def __init__(self) -> None:
        self._rows: list[LogRow] = []

    def add(self, version: int, event: pb.Event) -> None:
        """The next event, which made the run this version."""
        row = log_row(version, event)
        if row is not None:
            self._rows.append(row)

    def page(
        self,
        before: int | None = None,
        after: int = 0,
        limit: int = ROWS,
        kinds: frozenset[str] = frozenset(),
        arm: str = "",
        worker: str = "",
    ) -> list[dict[str, Any]]:
        """At most `limit` rows between two versions, newest first; all kinds, arms and workers, or only those."""
        found: list[dict[str, Any]] = []
        for row in reversed(self._rows):
            if row.version <= after or len(found) == limit:
                break
            if before is not None and row.version >= before:
                continue
            if (not kinds or row.kind in kinds) and arm in ("", row.arm) and worker in ("", row.worker):
                found.append(asdict(row))
        return found
