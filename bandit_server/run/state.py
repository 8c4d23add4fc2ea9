"""A run's state: the fold of its events, and of nothing else. No clock, no store.

    state = RunState(name)
    for event in events:
        state.apply(event)

Its size grows with arms and workers, never with the length of the history.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from bandit_server.bandit.history import History
from bandit_server.bandit.policy import SERVED, Policy, build
from bandit_server.bandit.random import Randomness
from bandit_server.bandit.reward import Costs
from bandit_server.run.modules import Modules
from bandit_server.run.worker import RECENT_ROUNDS, Round, Worker
from protos.optima.v1 import bandit_pb2 as pb

JOINT = "joint"
SCHEMA = 1
# Total losses that are kept, for a sparkline.
RECENT_LOSSES = 50


@dataclass(slots=True)
class ArmTotals:
    """The figures shown for an arm besides its posterior; the tail and superseded pulls do not count."""

    pulls: int = 0
    last_reward: float | None = None
    total_decrement: float = 0.0
    total_seconds: float = 0.0
    paused: bool = False


def playable(spec: pb.RunSpec) -> list[str]:
    """Return the arms a policy chooses from: those of the spec and, under policy `joint`, the arm `joint`."""
    names = [arm.name for arm in spec.arms]
    return [*names, JOINT] if spec.policy.name == JOINT and JOINT not in names else names


def build_policy(spec: pb.RunSpec) -> Policy:
    """Build the spec's policy over its playable arms.

    Raises:
        ValueError: There is no such policy, option or arm; the message says which there are.
    """
    names = playable(spec)
    name, _, arm = spec.policy.name.partition(":")
    fixed = None
    if spec.policy.name == JOINT:
        fixed = names.index(JOINT)
    elif name == "fixed":
        if arm not in names:
            raise ValueError(f"policy fixed:<arm> must name one of the arms {', '.join(names)}, not {arm!r}")
        fixed = names.index(arm)
    elif spec.policy.name not in SERVED:
        offered = ", ".join([*SERVED, JOINT, "fixed:<arm>"])
        raise ValueError(f"the server offers no policy {spec.policy.name!r}; it offers {offered}")
    return build(spec.policy.name, spec.policy.options, len(names), fixed=fixed)


class RunState:
    """One run after some version. Only `apply` changes it.

    Args:
        run: The run's name.
        recent_rounds: Rounds of each worker that the state holds.

    Attributes:
        run: The run's name.
        version: The number of its events.
        incarnation: Its incarnation.
        created: When its first event was appended, in Unix seconds.
        updated: When its last event was appended, in Unix seconds.
        finished: Whether it has ended.
        restored: Whether it has lost history that workers have restored.
        next_number: The number of the next pull.
        pulls: The number of pulls, without superseded ones.
        reports: The number of reports.
        rewards: The number of reports with a reward.
        tail_rounds: The number of pulls of the tail.
        diverged: The number of reports of diverged rounds.
        first_loss: The first total loss measured, that at the first worker's start included.
        losses: The last total losses measured.
        arms: Totals of the playable arms, by name.
        index: Indices of the playable arms, by name.
        workers: The workers that have joined, by name.
        open: The pulls that may still be in flight, by worker: arm indices by round.
        modules: The student's modules, in a run with an exchange.
        accepted: The number of reports that were not outdated.
        outdated: The number of reports whose base was outdated.
        spec: Its spec.
        policy: Its policy, with what it has learned.
        history: The last rewards of every arm.
        randomness: The random numbers of its choices.
        costs: What rounds of each arm take each worker.
    """

    spec: pb.RunSpec
    policy: Policy
    history: History
    randomness: Randomness
    costs: Costs

    def __init__(self, run: str, recent_rounds: int = RECENT_ROUNDS) -> None:
        self.run = run
        self._recent_rounds = recent_rounds
        self.version = 0
        self.incarnation = ""
        self.created = self.updated = 0.0
        self.finished = self.restored = False
        self.next_number = 0
        self.pulls = self.reports = self.rewards = self.tail_rounds = self.diverged = 0
        self.accepted = self.outdated = 0
        self.first_loss: float | None = None
        self.losses: deque[float] = deque(maxlen=RECENT_LOSSES)
        self.arms: dict[str, ArmTotals] = {}
        self.index: dict[str, int] = {}
        self.workers: dict[str, Worker] = {}
        self.open: dict[str, dict[int, int]] = {}
        self.modules = Modules(pb.RunSpec())

    def apply(self, event: pb.Event, fallback_arms: Iterable[int] | None = None) -> None:
        """Fold the next event. `fallback_arms` are a pull's, as indices, where the caller has them."""
        self.version += 1
        self.updated = event.time
        match event.WhichOneof("kind"):
            case "run_created":
                self._created(event.run_created, event.time)
            case "worker_started":
                started = event.worker_started
                self._end_leases(started.worker)
                self._worker(started.worker).start(started.process, started.info)
                self.modules.measured(dict(started.info.module_losses))
                if self.first_loss is None and started.info.HasField("total_loss"):
                    self._add_loss(started.info.total_loss)
            case "arm_pulled":
                self._pulled(event.arm_pulled, fallback_arms)
            case "reward_reported":
                self._reported(event.reward_reported)
            case "arm_updated":
                self.arms[event.arm_updated.arm].paused = event.arm_updated.paused
            case "run_finished":
                self.finished = True
            case "run_restored":
                self.incarnation = event.run_restored.incarnation
                self.restored = True
            case "lease_expired":
                self._end_lease(event.lease_expired.pull)

    @property
    def planned_tail(self) -> int:
        """Rounds of the tail; the even one of two whole numbers, as workers round it."""
        return round(self.spec.tail * self.spec.rounds)

    @property
    def busy_workers(self) -> set[str]:
        """Workers whose pulls may still be in flight."""
        return {*self.open, *(pull.worker for pull in self.modules.leases())}

    @property
    def active(self) -> list[int]:
        """Indices of the arms that are not paused."""
        return [self.index[name] for name, totals in self.arms.items() if not totals.paused]

    def begin(self, spec: pb.RunSpec) -> None:
        """Become a run of this spec without rewards: for the first event, and for snapshots."""
        self.spec = spec
        self.policy = build_policy(spec)
        names = playable(spec)
        self.arms = {name: ArmTotals() for name in names}
        self.index = {name: arm for arm, name in enumerate(names)}
        self.history = History(len(names))
        self.randomness = Randomness(spec.seed)
        self.costs = Costs()
        self.modules = Modules(spec)

    def _created(self, created: pb.RunCreated, time: float) -> None:
        self.incarnation = created.incarnation
        self.created = time
        self.begin(created.spec)

    def _pulled(self, pulled: pb.ArmPulled, fallback_arms: Iterable[int] | None) -> None:
        pull = pulled.pull
        known = self._worker(pull.worker).rounds.get(pull.round)
        if known is not None and self.spec.exchange:
            # Its modules were given away before it was reported.
            self._take_back(known.pull)
        self._begin(pull)
        if pull.chosen_by == pb.CHOSEN_BY_POLICY:
            self.open.setdefault(pull.worker, {})[pull.round] = self.index[pull.arm]
        self.modules.lease(pull)
        if fallback_arms is None:
            fallback_arms = map(self.index.__getitem__, pulled.fallback_arms)
        self._add_round(pull, Round.from_pull(pull, fallback_arms))

    def _reported(self, report: pb.RewardReported) -> None:
        pull, measurement = report.pull, report.measurement
        worker = self._worker(pull.worker)
        known = worker.rounds.get(pull.round)
        if known is not None and report.HasField("superseded"):
            self._take_back(known.pull)
        # With an exchange the server chooses the rounds of the tail too, and those begin with their selection.
        begun = known is not None and known.pull.number == pull.number
        if pull.chosen_by != pb.CHOSEN_BY_POLICY and not begun:
            self._begin(pull)
        self._end_lease(pull)
        self.modules.made(report.made)
        if report.outdated:
            self.outdated += 1
        else:
            self.accepted += 1
        worker.reported_rounds.add(pull.round)
        worker.reports += 1
        self.reports += 1
        self.diverged += measurement.outcome == pb.OUTCOME_DIVERGED
        if measurement.HasField("total_loss"):
            self._add_loss(measurement.total_loss)
        if report.HasField("reward"):
            self._learn(report)
        fallback_arms = known.fallback_arms if known is not None else ()
        self._add_round(pull, Round.from_pull(pull, fallback_arms, report))

    def _take_back(self, pull: pb.Pull) -> None:
        """Uncount a pull that another one of the same round has superseded."""
        self._end_lease(pull)
        self.pulls -= 1
        if pull.chosen_by == pb.CHOSEN_BY_TAIL:
            self.tail_rounds -= 1
        else:
            self.arms[pull.arm].pulls -= 1

    def _end_leases(self, worker: str) -> None:
        """End all leases of a worker's earlier process."""
        for pull in self.modules.leases():
            if pull.worker == worker:
                self._end_lease(pull)

    def _end_lease(self, pull: pb.Pull) -> None:
        self.modules.release([pull.number])
        self._close(pull)

    def _worker(self, name: str) -> Worker:
        known = self.workers.get(name)
        if known is None:
            known = self.workers[name] = Worker()
        return known

    def _add_loss(self, total_loss: float) -> None:
        self.first_loss = total_loss if self.first_loss is None else self.first_loss
        self.losses.append(total_loss)

    def _begin(self, pull: pb.Pull) -> None:
        self.next_number = max(self.next_number, pull.number + 1)
        self.pulls += 1
        if pull.chosen_by == pb.CHOSEN_BY_TAIL:
            self.tail_rounds += 1
        else:
            self.arms[pull.arm].pulls += 1
            self.policy.pulled(pull.number, self.index[pull.arm])

    def _learn(self, report: pb.RewardReported) -> None:
        pull, measurement = report.pull, report.measurement
        arm, totals = self.index[pull.arm], self.arms[pull.arm]
        self.rewards += 1
        # Workers with an exchange train one student: a reward is the same whoever earns it.
        learner = "" if self.spec.exchange else pull.worker
        self.history.rewarded(pull.number, arm, learner, report.reward)
        self.policy.rewarded(pull.number, arm, learner, report.reward)
        self.costs.add(pull.worker, arm, measurement.seconds)
        totals.last_reward = report.reward
        totals.total_seconds += measurement.seconds
        if measurement.outcome == pb.OUTCOME_MEASURED:
            totals.total_decrement += measurement.before - measurement.after

    def _add_round(self, pull: pb.Pull, round: Round) -> None:
        """Add a recent round. The one dropped for it, if it is open, no longer counts as in flight."""
        worker = self._worker(pull.worker)
        worker.last_round = pull.round
        dropped = worker.add_round(pull.round, round, self._recent_rounds)
        if dropped is not None and not dropped.reported:
            self._close(dropped.pull)

    def _close(self, pull: pb.Pull) -> None:
        rounds = self.open.get(pull.worker, {})
        rounds.pop(pull.round, None)
        if not rounds:
            self.open.pop(pull.worker, None)
