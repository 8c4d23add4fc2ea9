"""The history after any interleaving of workers, retries, lost answers, restarts and replicas.

It is the history of a server that never fails, and every replica serves its fold.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from bandit_server.bandit import serialization
from bandit_server.run.state import RunState
from bandit_server.run.summary import summary
from bandit_server.store import keys
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.conftest import Valkey
from tests.bandit_server.local_replica import Fate, FickleStore, Refused, Replica
from tests.bandit_server.model import FALLBACK, POLICY, TAIL, Expected, Model, nothing
from tests.calls import ARMS, measured, spec

# Far fewer than the default, so that a short history has rounds that must be looked up.
RECENT_ROUNDS = 4
RUNS = itertools.count()

WORKERS = ["a", "b", "c"]
BACKS = [0, 0, 0, 0, 1, 2, 5, 7]
FATES: list[Fate] = ["arrives", "arrives", "arrives", "answer lost", "store unanswered", "store unheard"]
HOWS = [
    "selected",
    "selected",
    "selected",
    "same arm",
    "another arm",
    "tail",
    "diverged",
    "joint",
    "not selected",
    "numbers",
]
WHICH = ["open", "open", "next", "back"]

workers = st.sampled_from(WORKERS)
replicas = st.sampled_from([0, 1])
backs = st.sampled_from(BACKS)
fates: st.SearchStrategy[Fate] = st.sampled_from(FATES)
hows = st.sampled_from(HOWS)


class Histories(RuleBasedStateMachine):
    """One run on two replicas. Every step is one call; after it the stream, the replicas and the model agree."""

    runner: asyncio.Runner
    url: str

    def __init__(self) -> None:
        super().__init__()
        self.run = f"history-{next(RUNS)}"
        self.model = Model(ARMS)
        self.fold = RunState(self.run, RECENT_ROUNDS)
        self.events: list[pb.Event] = []
        self.replicas = [Replica(FickleStore(self.url, deadline=60), recent_rounds=RECENT_ROUNDS) for _ in range(2)]
        self.client = redis.Redis.from_url(self.url)
        # The processes of each worker, oldest first, and the last request of each.
        self.processes: dict[str, list[pb.Caller]] = {}
        self.last: dict[str, tuple[str, Any]] = {}
        self.tokens = itertools.count()
        # The replicas that are checked after a step; one that is not checked falls behind.
        self.checked = [0, 1]

    def teardown(self) -> None:
        fold = RunState(self.run, RECENT_ROUNDS)
        for event in self.events:
            fold.apply(event)
        for replica in self.replicas:
            if fold.version:
                state = self.runner.run(replica.state(self.run))
                assert serialization.dump(state.policy) == serialization.dump(fold.policy)
            self.runner.run(replica.store.close())
        self.client.close()

    @initialize(replica=replicas, fate=fates)
    def begin(self, replica: int, fate: Fate) -> None:
        """Two workers, the first of which creates the run."""
        self.start("a", replica, fate)
        self.start("b", 1 - replica, "arrives")

    @rule(worker=workers, replica=replicas, fate=fates)
    def start(self, worker: str, replica: int, fate: Fate) -> None:
        """A new process of the worker."""
        caller = pb.Caller(run=self.run, worker=worker, process=f"p{next(self.tokens)}")
        self.processes.setdefault(worker, []).append(caller)
        self.call(replica, "CreateRun", pb.CreateRunRequest(caller=caller, spec=spec()), fate)

    @rule(worker=workers, played=st.lists(st.tuples(replicas, replicas), min_size=1, max_size=3))
    def play(self, worker: str, played: list[tuple[int, int]]) -> None:
        """Play rounds without failures; each call goes to either replica."""
        if caller := self.newest(worker):
            for selects, reports in played:
                round = self.model.frontier(worker)
                self.call(selects, "SelectArm", pb.SelectArmRequest(caller=caller, round=round), "arrives")
                self.call(reports, "ReportReward", self.reported(caller, round, "selected", 0), "arrives")

    @rule(worker=workers, replica=replicas, back=backs, fate=fates)
    def select(self, worker: str, replica: int, back: int, fate: Fate) -> None:
        if caller := self.newest(worker):
            round = max(0, self.model.frontier(worker) - back)
            self.call(replica, "SelectArm", pb.SelectArmRequest(caller=caller, round=round), fate)

    @rule(worker=workers, replica=replicas, which=st.sampled_from(WHICH), back=backs,
          fate=fates, how=hows, loss=st.integers(1, 60), selects=st.booleans())  # fmt: skip
    def report(
        self, worker: str, replica: int, which: str, back: int, fate: Fate, how: str, loss: int, selects: bool
    ) -> None:
        """Report a round that is open, one that has not begun because the worker chose itself, or any before.

        The report may select the next round as well.
        """
        if caller := self.newest(worker):
            next_round = self.model.frontier(worker)
            open_rounds = [r for (who, r), pull in self.model.rounds.items() if who == worker and not pull.measurement]
            round = {"open": max(open_rounds, default=next_round), "next": next_round}.get(which, next_round - 1 - back)
            request = self.reported(caller, max(0, round), how, loss)
            if selects:
                request.select_round = max(next_round, round + 1)
            self.call(replica, "ReportReward", request, fate)

    @rule(worker=workers, replica=replicas, fate=fates)
    def retry(self, worker: str, replica: int, fate: Fate) -> None:
        """Repeat a worker's last call, at either replica."""
        if worker in self.last:
            method, request = self.last[worker]
            self.call(replica, method, request, fate)

    @rule(worker=workers, replica=replicas, age=st.integers(1, 2), reports=st.booleans())
    def old_process(self, worker: str, replica: int, age: int, reports: bool) -> None:
        """Call from a process that does not know yet that a newer one has replaced it."""
        if len(self.processes.get(worker, ())) > age:
            caller, round = self.processes[worker][-1 - age], max(0, self.model.frontier(worker) - 1)
            if reports:
                self.call(replica, "ReportReward", self.reported(caller, round, "selected", 50), "arrives")
            else:
                self.call(replica, "SelectArm", pb.SelectArmRequest(caller=caller, round=round + 1), "arrives")

    @rule(worker=workers, other=workers)
    def select_at_once(self, worker: str, other: str) -> None:
        """Call both replicas at once: by two workers, or by one that has timed out at the first replica."""
        callers = [self.newest(worker), self.newest(other)]
        if not all(callers):
            return
        requests = [
            pb.SelectArmRequest(caller=caller, round=self.model.frontier(caller.worker)) for caller in callers if caller
        ]

        async def both() -> list[Any]:
            calls = (
                replica.call("SelectArm", request) for replica, request in zip(self.replicas, requests, strict=True)
            )
            return await asyncio.gather(*calls, return_exceptions=True)

        answers = self.runner.run(both())
        for event in self.appended():
            caller = next(
                request.caller for request in requests if request.caller.worker == event.arm_pulled.pull.worker
            )
            self.model.select(caller, event.arm_pulled.pull.round).commit([event])
        for request, answer in zip(requests, answers, strict=True):
            expected = self.model.select(request.caller, request.round)
            assert not expected.stores
            if expected.pull is not None:
                expected.duplicate = answer.duplicate
            self.compare(request, expected, answer, at_once=True)
        if worker == other and not isinstance(answers[0], Refused) and not answers[0].finished:
            assert sorted(answer.duplicate for answer in answers) == [False, True]
        self.agree()

    @rule(replica=replicas)
    def restart(self, replica: int) -> None:
        self.replicas[replica].restart()
        self.agree()

    @rule(replica=replicas)
    def save_snapshot(self, replica: int) -> None:
        """Take a snapshot, from which a restarted replica continues."""
        self.runner.run(self.replicas[replica].save_snapshot(self.run))
        self.replicas[1 - replica].restart()
        self.agree()

    @rule(arm=st.sampled_from(ARMS), paused=st.booleans(), replica=replicas, fate=fates)
    def pause(self, arm: str, paused: bool, replica: int, fate: Fate) -> None:
        self.call(replica, "UpdateArm", pb.UpdateArmRequest(run=self.run, arm=arm, paused=paused), fate)

    @rule(seed=st.integers(0, 2**32 - 1))
    def turmoil(self, seed: int) -> None:
        """Take random steps, all equally likely, where hypothesis prefers simple ones."""
        rng = random.Random(seed)
        for _ in range(12):
            self.checked = rng.choice([[], [], [0], [1], [0, 1]])
            worker, replica, fate, back = rng.choice(WORKERS), rng.randrange(2), rng.choice(FATES), rng.choice(BACKS)
            match rng.randrange(10):
                case 0 if rng.random() < 0.3:
                    self.start(worker, replica, fate)
                case 1:
                    self.retry(worker, replica, fate)
                case 2:
                    self.old_process(worker, replica, rng.randint(1, 2), rng.random() < 0.5)
                case 3 if rng.random() < 0.5:
                    self.save_snapshot(replica)
                case 3:
                    self.select_at_once(worker, rng.choice(WORKERS))
                case 4 | 5 | 6:
                    self.select(worker, replica, back, fate)
                case _:
                    how, loss = rng.choice(HOWS), rng.randint(1, 60)
                    self.report(worker, replica, rng.choice(WHICH), back, fate, how, loss, rng.random() < 0.5)
        self.checked = [0, 1]
        self.agree()

    @precondition(lambda self: len(self.events) > 60)
    @rule(replica=replicas, fate=fates)
    def finish(self, replica: int, fate: Fate) -> None:
        self.call(replica, "FinishRun", pb.FinishRunRequest(run=self.run), fate)

    # --- steps and checks

    def newest(self, worker: str) -> pb.Caller | None:
        return self.processes[worker][-1] if worker in self.processes else None

    def reported(self, caller: pb.Caller, round: int, how: str, loss: int) -> pb.ReportRewardRequest:
        """Return a report; for how "selected" of the selected arm, and for a reported round with the same numbers."""
        known = self.model.rounds.get((caller.worker, round))
        arm = known.arm if known else ARMS[round % 3]
        by, measurement = POLICY, measured(after=0.5 + round / 100)
        recent = sorted(r for who, r in self.model.rounds if who == caller.worker)[-RECENT_ROUNDS:]
        open_and_old = known is not None and known.measurement is None and round not in recent
        match how:
            case "selected" if known is not None and known.measurement is not None:
                by, measurement = known.by, known.measurement
            case "same arm":
                by = FALLBACK
            # A pull that the state no longer holds is not superseded: only its number would be known.
            case "another arm" | "tail" | "joint" if open_and_old:
                pass
            case "another arm":
                by, arm = FALLBACK, ARMS[loss % 3]
            case "tail":
                by, arm = TAIL, "joint"
            case "diverged":
                by, measurement = FALLBACK, pb.Measurement(outcome=pb.OUTCOME_DIVERGED, seconds=1.0)
            case "joint":
                by, arm = FALLBACK, "joint"
            case "not selected":
                arm = next(other for other in ARMS if other != arm)
            case "numbers":
                measurement = measured(after=loss / 64)
        return pb.ReportRewardRequest(caller=caller, round=round, arm=arm, chosen_by=by, measurement=measurement)

    def call(self, replica: int, method: str, request: Any, fate: Fate) -> None:
        """Make a call, and check everything."""
        expected = self.expected(method, request)
        behind = 0 < self.replicas[replica].known(self.run) < len(self.events)
        try:
            answer = self.runner.run(self.replicas[replica].call(method, request, fate))
        except Refused as refused:
            answer = refused
        if expected.stores and fate.startswith("store"):
            assert isinstance(answer, Refused)
            assert answer.status == "UNAVAILABLE"
            events = self.appended()
            if fate == "store unanswered":
                expected.commit(events[: expected.stores])
                if len(events) > expected.stores:
                    # In the usual case, report and selection are one append.
                    self.model.select(request.caller, request.select_round).commit(events[expected.stores :])
            else:
                nothing(events)
        elif behind and fate == "store unheard" and isinstance(answer, Refused) and answer.status == "UNAVAILABLE":
            # Its append, which nobody else has made, was lost, so it did not learn that it is behind.
            nothing(self.appended())
        elif expected.status == "OK" and method == "ReportReward" and request.HasField("select_round"):
            self.both(request, expected, answer, fate)
        else:
            assert (answer.status if isinstance(answer, Refused) else "OK") == expected.status, answer
            expected.commit(self.appended())
            self.compare(request, expected, answer)
            if fate != "answer lost" and not isinstance(answer, Refused):
                self.saw(request, answer)
        if hasattr(request, "caller") and request.caller.process == self.processes[request.caller.worker][-1].process:
            self.last[request.caller.worker] = (method, request)
        self.agree()

    def both(self, request: pb.ReportRewardRequest, reported: Expected, answer: Any, fate: Fate) -> None:
        """Check a report that the store has stored now or before, and the selection after it."""
        events = self.appended()
        reported.commit(events[: reported.stores])
        if not isinstance(answer, Refused):
            self.compare(request, reported, answer)
        selection = pb.SelectArmRequest(caller=request.caller, round=request.select_round)
        selected = self.model.select(selection.caller, selection.round)
        if selected.stores and fate.startswith("store"):
            assert isinstance(answer, Refused)
            assert answer.status == "UNAVAILABLE"
            (selected.commit if fate == "store unanswered" else nothing)(events[reported.stores :])
            return
        assert not isinstance(answer, Refused), answer
        selected.commit(events[reported.stores :])
        self.compare(selection, selected, answer.selected)
        if fate != "answer lost":
            self.saw(request, answer.selected)

    def expected(self, method: str, request: Any) -> Expected:
        match method:
            case "CreateRun":
                return self.model.start(request.caller)
            case "SelectArm":
                return self.model.select(request.caller, request.round)
            case "ReportReward":
                return self.model.report(request)
            case "UpdateArm":
                return self.model.pause(request)
        return self.model.finish()

    def compare(self, request: Any, expected: Expected, answer: Any, at_once: bool = False) -> None:
        """Compare the answer with the model, which has recorded the call."""
        if isinstance(answer, Refused):
            if expected.status == "ALREADY_EXISTS":
                stored = pb.RewardReported.FromString(answer.metadata["optima-stored-report-bin"])  # type: ignore[arg-type]
                assert expected.pull is not None
                assert stored.measurement == expected.pull.measurement
            return
        version = answer.run.version if hasattr(answer, "run") else answer.version
        assert at_once or version == self.model.version, "an answer knows all that was stored before it"
        match answer:
            case pb.CreateRunResponse():
                assert answer.created == expected.created
                assert answer.next_round == self.model.first_open(request.caller.worker)
            case pb.SelectArmResponse():
                assert (answer.finished, answer.duplicate) == (expected.finished, expected.duplicate)
            case pb.ReportRewardResponse():
                assert answer.duplicate == expected.duplicate
                assert expected.pull is not None
                assert answer.report.measurement == expected.pull.measurement
                assert (answer.report.reward if answer.report.HasField("reward") else None) == expected.pull.reward
        if expected.pull is not None:
            pull = answer.report.pull if isinstance(answer, pb.ReportRewardResponse) else answer.pull
            ours = expected.pull
            assert (pull.number, pull.arm, pull.chosen_by) == (ours.number, ours.arm, ours.by)

    def saw(self, request: Any, answer: Any) -> None:
        """Record that the client has the answer."""
        if hasattr(request, "caller"):
            known = answer.run if hasattr(answer, "run") else answer
            for caller in self.processes[request.caller.worker]:
                if caller.process == request.caller.process:
                    caller.incarnation, caller.seen_version = known.incarnation, known.version

    def appended(self) -> list[pb.Event]:
        """Return the events appended since the last call of this, read without our code."""
        after = len(self.events)
        entries: Any = self.client.xrange(keys.events(self.run), min=f"{after + 1}-0")
        assert [name for name, _ in entries] == [b"%d-0" % (after + 1 + at) for at in range(len(entries))]
        events = [pb.Event.FromString(fields[b"e"]) for _, fields in entries]
        for event in events:
            self.fold.apply(event)
        self.events += events
        return events

    def agree(self) -> None:
        """Check that the stream's fold, both replicas and the model agree."""
        assert len(self.events) == self.model.version
        if not self.events:
            return
        expected = summary(self.fold)
        self.model.check(expected)
        for replica in self.checked:
            state = self.runner.run(self.replicas[replica].state(self.run))
            assert summary(state) == expected
            assert state.rewards == self.fold.rewards
            assert remembered(state) == remembered(self.fold)
            assert (state.open, state.next_number) == (self.fold.open, self.fold.next_number)
            assert state.history.rewards == self.fold.history.rewards


def remembered(state: RunState) -> dict[str, Any]:
    """Return what a state holds of each worker."""
    return {
        name: (
            worker.process,
            worker.fenced,
            worker.rounds,
            worker.horizon,
            worker.reported_rounds.first_open,
            worker.reports,
        )
        for name, worker in state.workers.items()
    }


def test_every_replica_serves_the_fold_of_a_history_without_loss_or_repeat(valkey: Valkey) -> None:
    Histories.runner, Histories.url = valkey.runner, valkey.url
    run_state_machine_as_test(
        Histories,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
