"""The history of a run as rows of a table: event, time, worker, arm. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from bandit_server.dashboard.view.series import finite
from protos.optima.v1 import bandit_pb2 as pb

Kind = Literal["created", "worker", "pull", "report", "diverged", "superseded", "arm", "finished", "restored"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Rows that a browser is sent at first; older ones are fetched on demand.
ROWS = 100


@dataclass(slots=True)
class LogRow:
    """One event. Fields that do not apply to its kind are None or empty.

    Attributes:
        version: Version of the run after the event.
        time: Unix seconds.
        kind: What happened.
        worker: The worker it happened to.
        round: Round of that worker.
        pull: Pull number.
        arm: The arm.
        by: Who chose the arm, or which person requested the change.
        before: Bandit loss before the round.
        after: Bandit loss after the round.
        total: Total distillation loss after the round.
        reward: The reward.
        seconds: Training time of the round.
        note: A remark in words.
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


CHOSEN_BY = {pb.CHOSEN_BY_POLICY: "policy", pb.CHOSEN_BY_FALLBACK: "fallback", pb.CHOSEN_BY_TAIL: "tail"}


def log_row(version: int, event: pb.Event) -> LogRow | None:
    """Return the row of an event, or None if this dashboard does not know its kind."""
    time, kind = event.time, event.WhichOneof("kind")
    match kind:
        case "run_created":
            return LogRow(version, time, "created", note=f"policy {event.run_created.spec.policy.name}")
        case "worker_started":
            started = event.worker_started
            ranks = f"{started.info.ranks} rank{'s' if started.info.ranks != 1 else ''}" if started.info.ranks else ""
            note = ", ".join(text for text in (started.info.recipe, started.info.device, ranks) if text)
            return LogRow(version, time, "worker", worker=started.worker, note=note)
        case "arm_pulled":
            return LogRow(version, time, "pull", **_pull(event.arm_pulled.pull))
        case "reward_reported":
            return _report(version, time, event.reward_reported)
        case "arm_updated":
            update = event.arm_updated
            note = "paused" if update.paused else "resumed"
            return LogRow(version, time, "arm", arm=update.arm, by=update.actor, note=note)
        case "run_finished":
            return LogRow(version, time, "finished", by=event.run_finished.actor)
        case "run_restored":
            note = f"history after version {event.run_restored.lost_version:,} may be incomplete"
            return LogRow(version, time, "restored", worker=event.run_restored.worker, note=note)
    return None


def _report(version: int, time: float, report: pb.RewardReported) -> LogRow:
    measured = report.measurement
    diverged = measured.outcome == pb.OUTCOME_DIVERGED
    superseded = report.HasField("superseded")
    return LogRow(
        version,
        time,
        "diverged" if diverged else "superseded" if superseded else "report",
        **_pull(report.pull),
        before=None if diverged else finite(measured.before),
        after=None if diverged else finite(measured.after),
        total=finite(measured.total_loss) if measured.HasField("total_loss") else None,
        reward=finite(report.reward) if report.HasField("reward") else None,
        seconds=finite(measured.seconds),
        note=f"replaces pull {report.superseded:,}" if superseded else "",
    )


def _pull(pull: pb.Pull) -> dict[str, Any]:
    by = CHOSEN_BY.get(pull.chosen_by, "")
    return {"worker": pull.worker, "round": pull.round, "pull": pull.number, "arm": pull.arm, "by": by}


class EventLog:
    """The rows of a run's history, oldest first."""

    def __init__(self) -> None:
        self._rows: list[LogRow] = []

    def add(self, version: int, event: pb.Event) -> None:
        """Append the event that led to this version."""
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
        """Return rows, newest first.

        Args:
            before: Only rows of earlier versions than this one.
            after: Only rows of later versions than this one.
            limit: At most this many rows.
            kinds: Only these kinds; empty for all.
            arm: Only this arm; empty for all.
            worker: Only this worker; empty for all.
        """
        page: list[dict[str, Any]] = []
        for row in reversed(self._rows):
            if row.version <= after or len(page) == limit:
                break
            if before is not None and row.version >= before:
                continue
            if (not kinds or row.kind in kinds) and arm in ("", row.arm) and worker in ("", row.worker):
                page.append(asdict(row))
        return page
