"""A run as the server shows it: a summary, and points of its posterior."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from bandit_server.bandit.posterior import ArmPosterior
from bandit_server.run.state import JOINT, RunState
from bandit_server.store.base import Heartbeat
from protos.optima.v1 import bandit_pb2 as pb


def summary(state: RunState) -> pb.RunSummary:
    """Return the run's summary, without its workers' heartbeats."""
    message = pb.RunSummary(
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
    if state.spec.exchange:
        message.accepted, message.outdated = state.accepted, state.outdated
        for module in state.modules.by_name.values():
            message.modules.add(newest=module.newest, lease=module.lease)
    if state.first_loss is not None:
        message.first_loss = state.first_loss
        message.last_loss = state.losses[-1]
    return message


def with_heartbeats(summary: pb.RunSummary, heartbeats: Mapping[tuple[str, str], Heartbeat]) -> pb.RunSummary:
    """Return a copy of a summary with its workers as they are now; `heartbeats` by (run, worker)."""
    copy = pb.RunSummary()
    copy.CopyFrom(summary)
    for worker in copy.workers:
        heartbeat = heartbeats.get((summary.run, worker.worker))
        if heartbeat is None:
            continue
        worker.alive = heartbeat.alive
        worker.heartbeat_age = heartbeat.age
        if heartbeat.request:
            request = pb.HeartbeatRequest.FromString(heartbeat.request)
            worker.round = request.round
            worker.steps_per_second = request.steps_per_second
    return copy


def point(state: RunState) -> pb.PosteriorPoint | None:
    """Return the posterior after this version; None if there is none."""
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
    """Return one belief per arm; None before the first reward, and under policies that do not learn."""
    if not state.policy.learns or not state.rewards:
        return None
    beliefs = state.policy.posterior()
    return beliefs if all(math.isfinite(b.mean) and math.isfinite(b.sd) for b in beliefs) else None


def _arms(state: RunState) -> list[pb.ArmState]:
    beliefs = _posterior(state)
    listed = {arm.name: arm for arm in state.spec.arms}
    arms = []
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
        arms.append(arm)
    return arms
