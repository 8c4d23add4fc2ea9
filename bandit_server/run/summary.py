"""What the server tells of a run: a summary, and points of its posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bandit_server.bandit.posterior import ArmPosterior
from bandit_server.run.state import JOINT, RunState
from bandit_server.store.base import Pulse
from protos.optima.v1 import bandit_pb2 as pb


def summary(state: RunState) -> pb.RunSummary:
    """The run in a line, without its workers' signs of life."""
    told = pb.RunSummary(
        run=state.run,
        incarnation=state.incarnation,
        version=state.version,
        state=pb.RUN_STATE_FINISHED if state.finished else pb.RUN_STATE_ACTIVE,
        spec=state.spec,
        created=state.created,
        updated=state.updated,
        pulls=state.pulls,
        reports=state.reports,
        tail_rounds=state.tail_rounds,
        diverged=state.diverged,
        recent_losses=state.losses,
        restored=state.restored,
        arms=_arms(state),
        workers=[
            pb.WorkerStatus(worker=name, info=worker.info, round=worker.last_round, reports=worker.reports)
            for name, worker in state.workers.items()
        ],
    )
    if state.first_loss is not None:
        told.first_loss = state.first_loss
        told.last_loss = state.losses[-1]
    return told


def with_pulses(told: pb.RunSummary, pulses: Mapping[tuple[str, str], Pulse]) -> pb.RunSummary:
    """A copy of a summary with its workers as they are now; `pulses` by (run, worker)."""
    now = pb.RunSummary()
    now.CopyFrom(told)
    for worker in now.workers:
        pulse = pulses.get((told.run, worker.worker))
        if pulse is None:
            continue
        worker.alive = pulse.alive
        worker.heartbeat_age = pulse.age
        if pulse.heartbeat:
            beat = pb.HeartbeatRequest.FromString(pulse.heartbeat)
            worker.round = beat.round
            worker.steps_per_second = beat.steps_per_second
    return now


def point(state: RunState) -> pb.PosteriorPoint | None:
    """The posterior after this version; None where there is none."""
    beliefs = _posterior(state)
    if beliefs is None:
        return None
    return pb.PosteriorPoint(
        version=state.version,
        rewards=state.rewards,
        mean=[belief.mean for belief in beliefs],
        sd=[belief.sd for belief in beliefs],
        p_best=[belief.p_best for belief in beliefs],
    )


def _posterior(state: RunState) -> Sequence[ArmPosterior] | None:
    """One belief for each arm, before the first reward and under policies that do not learn none at all."""
    if not state.policy.learns or not state.rewards:
        return None
    beliefs = state.policy.posterior()
    return beliefs if all(math.isfinite(b.mean) and math.isfinite(b.sd) for b in beliefs) else None


def _arms(state: RunState) -> list[pb.ArmState]:
    beliefs = _posterior(state)
    listed = {arm.name: arm for arm in state.spec.arms}
    told = []
    for at, (name, totals) in enumerate(state.arms.items()):
        arm = pb.ArmState(
            # `joint` is the union of all arms, also where only the policy of that name plays it.
            arm=listed.get(name) or pb.Arm(name=JOINT, modules=sorted({m for a in listed.values() for m in a.modules})),
            pulls=totals.pulls,
            last_reward=totals.last_reward,
            total_decrement=totals.total_decrement,
            total_seconds=totals.total_seconds,
            paused=totals.paused,
        )
        if beliefs is not None:
            belief = beliefs[at]
            arm.mean, arm.sd, arm.p_best = belief.mean, belief.sd, belief.p_best
            arm.effective_count = belief.effective_count
        told.append(arm)
    return told
