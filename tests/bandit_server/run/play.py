"""Plays runs: gives commands to a state and applies what they decide, as a server would with its store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

from bandit_server.rpc.validation import normalized_spec
from bandit_server.run import lifecycle, restore, rounds
from bandit_server.run.decision import Decision
from bandit_server.run.old_rounds import NeedsHistory, Recall, Recalled
from bandit_server.run.state import RunState
from protos.optima.v1 import bandit_pb2 as pb

T = TypeVar("T")
ARMS = ("image", "text", "decoder")
POLICY, FALLBACK, TAIL = pb.CHOSEN_BY_POLICY, pb.CHOSEN_BY_FALLBACK, pb.CHOSEN_BY_TAIL


def spec(
    arms: tuple[str, ...] = ARMS, policy: str = "optima", options: Mapping[str, float] | None = None, **fields: object
) -> pb.RunSpec:
    """A spec as the edge lets it through."""
    return normalized_spec(
        pb.RunSpec(
            arms=[pb.Arm(name=name, modules=[f"{name}.tower"]) for name in arms],
            policy=pb.PolicySpec(name=policy, options=options),
            **{"steps_per_round": 10, "seed": 7, **fields},  # type: ignore[arg-type]
        )
    )


def measured(before: float = 1.0, after: float = 0.9, seconds: float = 2.0, **fields: object) -> pb.Measurement:
    """A round that went well."""
    return pb.Measurement(
        outcome=pb.OUTCOME_MEASURED,
        before=before,
        after=after,
        seconds=seconds,
        steps=10,
        **fields,  # type: ignore[arg-type]
    )


def diverged() -> pb.Measurement:
    """A round whose loss was not finite."""
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
        """Store a decision's events; the answer."""
        for event in decision.events:
            event.time = 100.0 + len(self.events)
            stored = pb.Event.FromString(event.SerializeToString())
            self.events.append(stored)
            self.state.apply(stored, decision.later)
        return decision.answer

    def caller(self, worker: str = "w", **fields: object) -> pb.Caller:
        """A worker's process that has seen all there is."""
        seen = {"incarnation": self.state.incarnation, "seen_version": self.state.version}
        process = self.processes.get(worker, "p1")
        return pb.Caller(run="demo", worker=worker, **{"process": process, **seen, **fields})  # type: ignore[arg-type]

    def join(self, worker: str = "w", process: str = "p1", total_loss: float | None = None) -> bool:
        """A worker's process creates the run, or joins it."""
        caller = pb.Caller(run="demo", worker=worker, process=process)
        info = pb.WorkerInfo(ranks=1, device="cpu", total_loss=total_loss)
        request = pb.CreateRunRequest(caller=caller, spec=self.spec, info=info)
        created = self.do(lifecycle.create(self.state, request, self.incarnation))
        self.processes[worker] = process
        return created

    def select(self, round: int, worker: str = "w", alive: Collection[str] = ()) -> pb.SelectArmResponse:
        """The arm for a round."""
        request = pb.SelectArmRequest(caller=self.caller(worker), round=round)
        return self.do(self._recalling(lambda recalled: rounds.select(self.state, request, alive, recalled)))

    def report(
        self,
        round: int,
        arm: str,
        measurement: pb.Measurement | None = None,
        worker: str = "w",
        chosen_by: pb.ChosenBy = POLICY,
    ) -> pb.ReportRewardResponse:
        """What came of a round."""
        request = pb.ReportRewardRequest(
            caller=self.caller(worker),
            round=round,
            arm=arm,
            chosen_by=chosen_by,
            measurement=measured() if measurement is None else measurement,
        )
        return self.do(self._recalling(lambda recalled: rounds.report(self.state, request, recalled)))

    def round(self, round: int, measurement: pb.Measurement | None = None, worker: str = "w") -> pb.RewardReported:
        """Select, train, report."""
        pull = self.select(round, worker).pull
        return self.report(round, pull.arm, measurement, worker).report

    def pause(self, arm: str, paused: bool = True) -> None:
        """An operator pauses or resumes an arm."""
        self.do(lifecycle.update_arm(self.state, pb.UpdateArmRequest(run="demo", arm=arm, paused=paused, actor="me")))

    def finish(self) -> None:
        """An operator ends the run."""
        self.do(lifecycle.finish(self.state, "me"))

    def restore(
        self, records: list[pb.JournalRecord], worker: str = "w", starts: str = "second", **caller: object
    ) -> int:
        """A worker gives its journal back; how many rounds were missing. `caller`: what it has seen, if not all."""
        return self.do(self.decide_restore(records, worker, starts, **caller))

    def decide_restore(
        self, records: list[pb.JournalRecord], worker: str = "w", starts: str = "second", **caller: object
    ) -> Decision[int]:
        """What a restore comes to. `starts`: the incarnation that it starts, if it does."""
        self.processes.setdefault(worker, "p1")
        request = pb.RestoreRunRequest(caller=self.caller(worker, **caller), spec=self.spec, records=records)
        return restore.restore(self.state, request, restore.Recorded(worker, self.events), starts)

    def _recalling(self, decide: Callable[[Recalled | None], Decision[T]]) -> Decision[T]:
        """A round too old to be at hand is looked up in the events."""
        try:
            return decide(None)
        except NeedsHistory as needed:
            recall = Recall(needed.worker, needed.round, self.state.index)
            for event in reversed(self.events):
                if not recall.done:
                    recall.give(event)
            return decide(Recalled(recall.found))


def journal(events: list[pb.Event], worker: str = "w") -> list[pb.JournalRecord]:
    """What the worker's journal says of a run, its rounds in order."""
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
