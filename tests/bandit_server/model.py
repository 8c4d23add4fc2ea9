"""A model of a run: a bandit server that has everything in memory and never fails.

It says what the outcome of a call must be before the call is made, and records the call afterwards. It does not model
the policy: a chosen arm is read from the event that was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from protos.optima.v1 import bandit_pb2 as pb

POLICY, FALLBACK, TAIL = pb.CHOSEN_BY_POLICY, pb.CHOSEN_BY_FALLBACK, pb.CHOSEN_BY_TAIL


@dataclass
class Pull:
    """A round that has begun; `measurement` and `reward` once it is reported."""

    number: int
    arm: str
    by: pb.ChosenBy.ValueType
    measurement: pb.Measurement | None = None
    reward: float | None = None


def nothing(events: Sequence[pb.Event]) -> None:
    assert not events


@dataclass
class Expected:
    """The outcome that a call must have.

    Attributes:
        status: The status code's name.
        stores: How many events it appends.
        pull: The pull of its answer.
        commit: Records the appended events.
    """

    status: str = "OK"
    stores: int = 0
    duplicate: bool = False
    finished: bool = False
    created: bool = False
    pull: Pull | None = None
    commit: Callable[[Sequence[pb.Event]], None] = nothing


@dataclass
class Model:
    """One run. `rounds` are the valid ones by worker and round; `arrived` the rewards in the order of their arrival."""

    arms: tuple[str, ...]
    version: int = 0
    next_number: int = 0
    finished: bool = False
    process: dict[str, str] = field(default_factory=dict)
    fenced: set[tuple[str, str]] = field(default_factory=set)
    paused: set[str] = field(default_factory=set)
    rounds: dict[tuple[str, int], Pull] = field(default_factory=dict)
    last_round: dict[str, int] = field(default_factory=dict)
    arrived: list[Pull] = field(default_factory=list)

    def start(self, caller: pb.Caller) -> Expected:
        """Return the outcome of CreateRun with the run's own spec."""
        if (caller.worker, caller.process) in self.fenced:
            return Expected("ABORTED")
        if self.process.get(caller.worker) == caller.process:
            return Expected()
        created = self.version == 0

        def commit(events: Sequence[pb.Event]) -> None:
            assert [event.WhichOneof("kind") for event in events] == ["run_created"] * created + ["worker_started"]
            self.version += len(events)
            if caller.worker in self.process:
                self.fenced.add((caller.worker, self.process[caller.worker]))
            self.process[caller.worker] = caller.process
            self.last_round.setdefault(caller.worker, 0)

        return Expected(stores=1 + created, created=created, commit=commit)

    def select(self, caller: pb.Caller, round: int) -> Expected:
        """Return the outcome of SelectArm."""
        if refusal := self._refusal(caller):
            return refusal
        if self.finished:
            return Expected(finished=True)
        known = self.rounds.get((caller.worker, round))
        if known is not None:
            return Expected(duplicate=True, pull=known)
        pull = Pull(self.next_number, "", POLICY)

        def commit(events: Sequence[pb.Event]) -> None:
            (event,) = events
            pull.arm = event.arm_pulled.pull.arm
            assert pull.arm in set(self.arms) - self.paused
            assert set(event.arm_pulled.fallback_arms) <= set(self.arms) - self.paused
            self._begin(caller.worker, round, pull)
            assert event.arm_pulled.pull == message(pull, caller.worker, round)
            self.version += 1

        return Expected(stores=1, pull=pull, commit=commit)

    def report(self, request: pb.ReportRewardRequest) -> Expected:
        """Return the outcome of ReportReward."""
        caller, arm, by = request.caller, request.arm, request.chosen_by
        if refusal := self._refusal(caller):
            return refusal
        known = self.rounds.get((caller.worker, request.round))
        if known is not None and known.measurement is not None:
            same = (known.arm, known.measurement) == (arm, request.measurement)
            return Expected(duplicate=True, pull=known) if same else Expected("ALREADY_EXISTS", pull=known)
        if by == POLICY and known is None:
            return Expected("DATA_LOSS" if caller.incarnation else "INVALID_ARGUMENT")
        if by == POLICY and known is not None and known.arm != arm:
            return Expected("INVALID_ARGUMENT")
        if (arm not in self.arms) if by != TAIL else (arm != "joint"):
            return Expected("INVALID_ARGUMENT")
        stands = known is not None and known.arm == arm and by != TAIL
        pull = known if known is not None and stands else Pull(self.next_number, arm, by)
        superseded = None if known is None or stands else known.number

        def commit(events: Sequence[pb.Event]) -> None:
            (event,) = events
            report = event.reward_reported
            reward = self._reward(pull, request.measurement)
            assert report.pull == message(pull, caller.worker, request.round)
            assert report.measurement == request.measurement
            assert (report.reward if report.HasField("reward") else None) == reward
            assert (report.superseded if report.HasField("superseded") else None) == superseded
            pull.measurement, pull.reward = request.measurement, reward
            self._begin(caller.worker, request.round, pull)
            self.arrived.append(pull)
            self.version += 1

        return Expected(stores=1, pull=pull, commit=commit)

    def pause(self, request: pb.UpdateArmRequest) -> Expected:
        """Return the outcome of UpdateArm."""
        if self.version == 0:
            return Expected("NOT_FOUND")
        if self.finished:
            return Expected("FAILED_PRECONDITION")
        if (request.arm in self.paused) == request.paused:
            return Expected()
        if request.paused and len(self.paused) == len(self.arms) - 1:
            return Expected("FAILED_PRECONDITION")

        def commit(events: Sequence[pb.Event]) -> None:
            assert len(events) == 1
            (self.paused.add if request.paused else self.paused.remove)(request.arm)
            self.version += 1

        return Expected(stores=1, commit=commit)

    def finish(self) -> Expected:
        """Return the outcome of FinishRun."""
        if self.version == 0:
            return Expected("NOT_FOUND")
        if self.finished:
            return Expected()

        def commit(events: Sequence[pb.Event]) -> None:
            assert len(events) == 1
            self.finished = True
            self.version += 1

        return Expected(stores=1, commit=commit)

    def first_open(self, worker: str) -> int:
        """Return the worker's first round without a report."""
        reported = {round for (who, round), pull in self.rounds.items() if who == worker and pull.measurement}
        return min(set(range(len(reported) + 1)) - reported)

    def frontier(self, worker: str) -> int:
        """Return the round after the last that the worker has begun."""
        return max((round + 1 for who, round in self.rounds if who == worker), default=0)

    def check(self, summary: pb.RunSummary) -> None:
        """Assert that a server's summary of the run is right."""
        trained = [pull for pull in self.rounds.values() if pull.by != TAIL]
        assert summary.version == self.version
        assert (summary.state == pb.RUN_STATE_FINISHED) == self.finished
        assert (summary.pulls, summary.reports) == (len(self.rounds), len(self.arrived))
        assert summary.tail_rounds == len(self.rounds) - len(trained)
        assert summary.diverged == sum(
            p.measurement.outcome == pb.OUTCOME_DIVERGED for p in self.arrived if p.measurement
        )
        for arm in summary.arms:
            ours = [pull for pull in self.arrived if pull.arm == arm.arm.name and pull.by != TAIL]
            assert arm.pulls == sum(pull.arm == arm.arm.name for pull in trained)
            assert arm.paused == (arm.arm.name in self.paused)
            assert (arm.last_reward if arm.HasField("last_reward") else None) == (ours[-1].reward if ours else None)
        workers = {worker.worker: (worker.round, worker.reports) for worker in summary.workers}
        assert workers == {
            worker: (
                last,
                sum(who == worker and pull.measurement is not None for (who, _), pull in self.rounds.items()),
            )
            for worker, last in self.last_round.items()
        }

    def _refusal(self, caller: pb.Caller) -> Expected | None:
        if self.version == 0:
            return Expected("NOT_FOUND")
        if (caller.worker, caller.process) in self.fenced:
            return Expected("ABORTED")
        if self.process.get(caller.worker) != caller.process:
            return Expected("INVALID_ARGUMENT")
        return None

    def _begin(self, worker: str, round: int, pull: Pull) -> None:
        self.next_number = max(self.next_number, pull.number + 1)
        self.rounds[worker, round] = pull
        self.last_round[worker] = round

    def _reward(self, pull: Pull, measurement: pb.Measurement) -> float | None:
        if pull.by == TAIL:
            return None
        if measurement.outcome == pb.OUTCOME_MEASURED:
            return (measurement.before - measurement.after) / measurement.before
        known = sorted((p for p in self.arrived if p.reward is not None), key=lambda p: p.number)
        windows = {arm: [p.reward for p in known if p.arm == arm][-20:] for arm in self.arms}
        charged = windows[pull.arm] or [reward for window in windows.values() for reward in window]
        return min((reward for reward in charged if reward is not None), default=0.0)


def message(pull: Pull, worker: str, round: int) -> pb.Pull:
    """Return the pull as it is stored."""
    return pb.Pull(number=pull.number, worker=worker, round=round, arm=pull.arm, chosen_by=pull.by)
