"""Histories of runs as the bandit server would send them, for tests without one."""

from __future__ import annotations

from dataclasses import dataclass, field

from protos.optima.v1 import bandit_pb2 as pb


@dataclass
class History:
    """The events of one run, in order."""

    arms: tuple[str, ...] = ("image", "text", "multimodal")
    run: str = "demo"
    incarnation: str = "first"
    events: list[pb.Event] = field(default_factory=list)
    points: list[pb.PosteriorPoint] = field(default_factory=list)
    workers: list[pb.WorkerStatus] = field(default_factory=list)
    # Merged into the summary: losses, counts and arms, which the events alone do not set here.
    totals: pb.RunSummary = field(default_factory=pb.RunSummary)
    rewards: int = 0
    began: float = 1.0

    def __post_init__(self) -> None:
        self.spec = pb.RunSpec(
            arms=[pb.Arm(name=name, modules=[f"{name}.tower"]) for name in self.arms],
            policy=pb.PolicySpec(name="optima"),
            steps_per_round=10,
            rounds=100,
            tail=0.3,
        )
        self.add(run_created=pb.RunCreated(spec=self.spec, incarnation=self.incarnation))

    def add(self, **kind: object) -> None:
        """Append an event of one kind."""
        self.events.append(pb.Event(schema=1, time=self.began + len(self.events), **kind))  # type: ignore[arg-type]

    def select(self, number: int, arm: str, worker: str = "w1") -> None:
        """Add an arm chosen by the policy."""
        pull = pb.Pull(number=number, worker=worker, round=number, arm=arm, chosen_by=pb.CHOSEN_BY_POLICY)
        self.add(arm_pulled=pb.ArmPulled(pull=pull))

    def report(
        self,
        number: int,
        arm: str,
        before: float = 1.0,
        after: float = 0.9,
        worker: str = "w1",
        chosen_by: pb.ChosenBy.ValueType = pb.CHOSEN_BY_POLICY,
        diverged: bool = False,
        superseded: int | None = None,
        total_loss: float | None = None,
        seconds: float = 1.0,
    ) -> None:
        """Add a reward and, outside the tail, a new posterior."""
        pull = pb.Pull(number=number, worker=worker, round=number, arm=arm, chosen_by=chosen_by)
        measured = pb.Measurement(outcome=pb.OUTCOME_DIVERGED if diverged else pb.OUTCOME_MEASURED, steps=10)
        measured.seconds = seconds
        if not diverged:
            measured.before, measured.after = before, after
        if total_loss is not None:
            measured.total_loss = total_loss
        tail = chosen_by == pb.CHOSEN_BY_TAIL
        report = pb.RewardReported(pull=pull, measurement=measured, superseded=superseded)
        if not tail:
            report.reward = (before - after) / before
        self.add(reward_reported=report)
        if not tail:
            self.rewards += 1
            mean = [0.01 * (at + 1) for at in range(len(self.arms))]
            sd, chance = [0.001] * len(mean), [1 / len(mean)] * len(mean)
            self.points.append(
                pb.PosteriorPoint(version=len(self.events), rewards=self.rewards, mean=mean, sd=sd, p_best=chance)
            )

    def summary(self) -> pb.RunSummary:
        """Return the run's current summary."""
        summary = pb.RunSummary(
            run=self.run,
            incarnation=self.incarnation,
            version=len(self.events),
            state=pb.RUN_STATE_ACTIVE,
            spec=self.spec,
            created=self.began,
            updated=self.began + len(self.events),
            pulls=len(self.points),
            reports=len(self.points),
            arms=[] if self.totals.arms else [pb.ArmState(arm=arm) for arm in self.spec.arms],
            workers=self.workers,
        )
        summary.MergeFrom(self.totals)
        return summary

    def batch(self, after: int = 0, until: int | None = None) -> pb.WatchRunResponse:
        """Return the events after a version up to another, as one batch."""
        until = len(self.events) if until is None else until
        return pb.WatchRunResponse(
            run=self.summary(),
            from_version=after,
            events=self.events[after:until],
            posterior=[point for point in self.points if after < point.version <= until],
            live=until == len(self.events),
        )
