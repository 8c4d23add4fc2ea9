"""Runs without a store: commands are decided on a state, and their events applied to it, as a server does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from bandit_server.rpc.validation import normalized_spec
from bandit_server.run import lifecycle, restore, rounds
from bandit_server.run.decision import Decision
from bandit_server.run.old_rounds import NeedsHistory, OldRound, RoundSearch
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
ARMS = ("image", "text", "decoder")
POLICY, FALLBACK, TAIL = pb.CHOSEN_BY_POLICY, pb.CHOSEN_BY_FALLBACK, pb.CHOSEN_BY_TAIL


def spec(
    arms: tuple[str, ...] = ARMS, policy: str = "optima", options: Mapping[str, float] | None = None, **fields: object
) -> pb.RunSpec:
    """Return a valid spec, as the service passes it on."""
    return normalized_spec(
        pb.RunSpec(
            arms=[pb.Arm(name=name, modules=[f"{name}.tower"]) for name in arms],
            policy=pb.PolicySpec(name=policy, options=options),
            **{"steps_per_round": 10, "seed": 7, **fields},  # type: ignore[arg-type]
        )
    )


def measured(before: float = 1.0, after: float = 0.9, seconds: float = 2.0, **fields: object) -> pb.Measurement:
    """Return the measurement of a round with finite losses."""
    return pb.Measurement(
        outcome=pb.OUTCOME_MEASURED,
        before=before,
        after=after,
        seconds=seconds,
        steps=10,
        **fields,  # type: ignore[arg-type]
    )


def diverged() -> pb.Measurement:
    """Return the measurement of a round whose loss was not finite."""
    return pb.Measurement(outcome=pb.OUTCOME_DIVERGED, seconds=2.0)


class Play:
    """A run and the events that made it.

    Attributes:
        state: The fold of `events`.
        processes: The process of each worker that has joined.
    """

    def __init__(self, run_spec: pb.RunSpec | None = None, incarnation: str = "first") -> None:
        self.spec = spec() if run_spec is None else run_spec
        self.state = RunState("demo")
        self.events: list[pb.Event] = []
        self.processes: dict[str, str] = {}
        self.incarnation = incarnation

    def do(self, decision: Decision[T]) -> T:
        """Store a decision's events, and return its answer."""
        for event in decision.events:
            event.time = 100.0 + len(self.events)
            stored = pb.Event.FromString(event.SerializeToString())
            self.events.append(stored)
            self.state.apply(stored, decision.fallback_arms)
        return decision.answer

    def caller(self, worker: str = "w", **fields: object) -> pb.Caller:
        """Return a worker's current process, which has seen the whole history."""
        seen = {"incarnation": self.state.incarnation, "seen_version": self.state.version}
        process = self.processes.get(worker, "p1")
        return pb.Caller(run="demo", worker=worker, **{"process": process, **seen, **fields})  # type: ignore[arg-type]

    def join(self, worker: str = "w", process: str = "p1", total_loss: float | None = None) -> bool:
        """Create the run or join it with a worker's process."""
        caller = pb.Caller(run="demo", worker=worker, process=process)
        info = pb.WorkerInfo(ranks=1, device="cpu", total_loss=total_loss)
        request = pb.CreateRunRequest(caller=caller, spec=self.spec, info=info)
        created = self.do(lifecycle.create(self.state, request, self.incarnation))
        self.processes[worker] = process
        return created

    def select(self, round: int, worker: str = "w", alive: Collection[str] = ()) -> pb.SelectArmResponse:
        """Select an arm for a round."""
        request = pb.SelectArmRequest(caller=self.caller(worker), round=round)
        return self.do(self._with_history(lambda old_round: rounds.select(self.state, request, alive, old_round)))

    def report(
        self,
        round: int,
        arm: str,
        measurement: pb.Measurement | None = None,
        worker: str = "w",
        chosen_by: pb.ChosenBy.ValueType = POLICY,
    ) -> pb.ReportRewardResponse:
        """Report a round."""
        request = pb.ReportRewardRequest(
            caller=self.caller(worker),
            round=round,
            arm=arm,
            chosen_by=chosen_by,
            measurement=measured() if measurement is None else measurement,
        )
        return self.do(self._with_history(lambda old_round: rounds.report(self.state, request, old_round)))

    def round(self, round: int, measurement: pb.Measurement | None = None, worker: str = "w") -> pb.RewardReported:
        """Select, train, report."""
        pull = self.select(round, worker).pull
        return self.report(round, pull.arm, measurement, worker).report

    def pause(self, arm: str, paused: bool = True) -> None:
        """Pause or resume an arm."""
        self.do(lifecycle.update_arm(self.state, pb.UpdateArmRequest(run="demo", arm=arm, paused=paused, actor="me")))

    def finish(self) -> None:
        """End the run."""
        self.do(lifecycle.finish(self.state, "me"))

    def restore(
        self, records: list[pb.JournalRecord], worker: str = "w", starts: str = "second", **caller: object
    ) -> int:
        """Restore a worker's journal; return how many rounds were missing. `caller`: the caller, if not up to date."""
        return self.do(self.decide_restore(records, worker, starts, **caller))

    def decide_restore(
        self, records: list[pb.JournalRecord], worker: str = "w", starts: str = "second", **caller: object
    ) -> Decision[int]:
        """Return a restore's decision. `starts` is the incarnation that it may start."""
        self.processes.setdefault(worker, "p1")
        request = pb.RestoreRunRequest(caller=self.caller(worker, **caller), spec=self.spec, records=records)
        return restore.restore(self.state, request, restore.RecordedRounds(worker, self.events), starts)

    def _with_history(self, decide: Callable[[OldRound | None], Decision[T]]) -> Decision[T]:
        """Decide; a round that the state no longer holds is looked up in the events."""
        try:
            return decide(None)
        except NeedsHistory as needed:
            search = RoundSearch(needed.worker, needed.round, self.state.index)
            for event in reversed(self.events):
                if not search.done:
                    search.add(event)
            return decide(OldRound(search.round))


def journal(events: list[pb.Event], worker: str = "w") -> list[pb.JournalRecord]:
    """Return the journal that a worker has of a run, its rounds in order."""
    records: dict[int, pb.JournalRecord] = {}
    for event in events:
        kind = event.WhichOneof("kind")
        if kind == "arm_pulled" and event.arm_pulled.pull.worker == worker:
            pull = event.arm_pulled.pull
            records[pull.round] = pb.JournalRecord(pull=pull, numbered=True)
        elif kind == "reward_reported" and event.reward_reported.pull.worker == worker:
            report = event.reward_reported
            pull = report.pull
            records[pull.round] = pb.JournalRecord(pull=pull, numbered=True, measurement=report.measurement)
    return [record for _, record in sorted(records.items())]
