"""The server's summaries of runs, arms and workers as plain values for JSON: what the tables show. Pure."""

from __future__ import annotations

from typing import Any

from bandit_server.dashboard.view.series import finite
from protos.optima.v1 import bandit_pb2 as pb

Summary = dict[str, Any]

# Explanations of a run's settings. They repeat what the spec holds: an option that is not set has its default.
POLICIES = {
    "optima": "prefers arms with high recent rewards, and learns how much history counts as recent",
    "sliding_window_ts": "Thompson sampling on the most recent pulls of the run only",
    "uniform": "every arm with the same probability",
    "round_robin": "the arms in turn",
    "joint": "always all modules at once (layerwise distillation)",
}
OPTIONS = {
    "exploration": "standard deviations of optimism for uncertain arms",
    "memory": "of an observation's weight remains after each later reward",
    "retry": "pulls per arm until an arm is tried again",
    "settle": "pulls per arm until a new or promising arm is tried again",
    "window": "most recent pulls of the run count",
}
TRAIN = {
    pb.TRAIN_MODE_FORCED: "forced: only the arm's parameters change; its inputs are the teacher's boundary tensors",
    pb.TRAIN_MODE_ACTIVE: "active: only the arm's parameters change; its inputs are the student's own",
    pb.TRAIN_MODE_ALL: "all: every parameter may change; the arm selects the layer terms of the loss",
}
STATES = {pb.RUN_STATE_ACTIVE: "active", pb.RUN_STATE_FINISHED: "finished"}


def run_summary(run: pb.RunSummary) -> Summary:
    """Return one row of the list of runs. Losses are unit-free, times Unix seconds.

    `decrement` is the fraction of the first total loss that is gone, once a second loss was measured.
    """
    first = finite(run.first_loss) if run.HasField("first_loss") else None
    last = finite(run.last_loss) if run.HasField("last_loss") else None
    measured_twice = len(run.recent_losses) > 1
    return {
        "run": run.run,
        "state": STATES.get(run.state, "unknown"),
        "restored": run.restored,
        "policy": run.spec.policy.name,
        "rounds": run.reports,
        "planned": run.spec.rounds * max(1, len(run.workers)) or None,
        "tail_rounds": run.tail_rounds,
        "diverged": run.diverged,
        "first_loss": first,
        "last_loss": last,
        "decrement": (first - last) / first if first and last is not None and measured_twice else None,
        "top_arm": _top_arm(run),
        "arms": [arm.arm.name for arm in run.arms],
        "alive": sum(worker.alive for worker in run.workers),
        "workers": len(run.workers),
        "created": run.created,
        "updated": run.updated,
        "recent_losses": [finite(loss) for loss in run.recent_losses],
    }


def run_detail(run: pb.RunSummary, received: float) -> Summary:
    """Return all that the page of a run shows beside its charts. `received`: Unix seconds at which `run` arrived."""
    return {
        **run_summary(run),
        "relative": run.spec.reward != pb.REWARD_KIND_ABSOLUTE,
        "settings": describe_settings(run.spec),
        "arms": [arm_summary(arm) for arm in run.arms],
        "workers": [worker_summary(worker, received, run.spec.rounds) for worker in run.workers],
    }


def arm_summary(arm: pb.ArmState) -> Summary:
    """Return an arm's posterior and totals. Rewards are fractions, not percent."""
    return {
        "name": arm.arm.name,
        "modules": list(arm.arm.modules),
        "mean": finite(arm.mean) if arm.HasField("mean") else None,
        "sd": finite(arm.sd) if arm.HasField("sd") else None,
        "p_best": finite(arm.p_best) if arm.HasField("p_best") else None,
        "effective_count": finite(arm.effective_count),
        "pulls": arm.pulls,
        "last_reward": finite(arm.last_reward) if arm.HasField("last_reward") else None,
        "total_decrement": finite(arm.total_decrement),
        "total_seconds": finite(arm.total_seconds),
        "paused": arm.paused,
    }


def worker_summary(worker: pb.WorkerStatus, received: float, planned: int) -> Summary:
    """Return a worker's state.

    `heard` is the time of its last heartbeat, Unix seconds by this dashboard's clock; `done` says that it has played
    all its rounds.

    Args:
        worker: The worker.
        received: Unix seconds at which the status arrived.
        planned: Rounds that each worker plays; 0 if there is no end.
    """
    info = worker.info
    age = worker.heartbeat_age if worker.HasField("heartbeat_age") else None
    return {
        "worker": worker.worker,
        "alive": worker.alive,
        "done": 0 < planned <= worker.reports,
        "heard": received - age if age is not None else None,
        "round": worker.round,
        "steps_per_second": finite(worker.steps_per_second) or None,
        "reports": worker.reports,
        "ranks": info.ranks or None,
        "device": info.device,
        "recipe": info.recipe,
        "versions": dict(sorted(info.versions.items())),
        "teacher_metrics": _metrics(info.teacher_metrics.items()),
        "student_metrics": _metrics(info.student_metrics.items()),
    }


def describe_settings(spec: pb.RunSpec) -> list[tuple[str, str]]:
    """Return (name, explanation) of every setting of a run, in the order to show them."""
    options = "; ".join(_describe_option(name, value) for name, value in sorted(spec.policy.options.items()))
    if spec.reward == pb.REWARD_KIND_ABSOLUTE:
        reward = "absolute loss decrement of a round: before − after"
    else:
        reward = "relative loss decrement of a round: (before − after) / before"
    if spec.cost_aware:
        reward += ", divided by the arm's relative cost in seconds"
    rounds = f"{spec.rounds:,} per worker" if spec.rounds else "no planned end"
    tail = (
        f"the last {100 * spec.tail:.3g} % of each worker's rounds train all modules jointly" if spec.tail else "none"
    )
    return [
        ("Policy", f"{spec.policy.name}: {_describe_policy(spec.policy.name)}"),
        ("Options", options or "defaults"),
        ("Reward", reward),
        ("Training mode", TRAIN.get(spec.train, TRAIN[pb.TRAIN_MODE_FORCED])),
        ("Rounds", f"{rounds}, {spec.steps_per_round} optimizer steps each"),
        ("Joint tail", tail),
        ("Seed", str(spec.seed)),
    ]


def _metrics(items: Any) -> dict[str, float | None]:
    return {name: finite(value) for name, value in sorted(items)}


def _top_arm(run: pb.RunSummary) -> Summary | None:
    """Return the arm most probably best; None before the first reward, and for a policy that does not learn."""
    candidates = [(arm.p_best, index) for index, arm in enumerate(run.arms) if arm.HasField("p_best")]
    if not candidates:
        return None
    p_best, index = max(candidates, key=lambda pair: (pair[0], -pair[1]))
    return {"name": run.arms[index].arm.name, "index": index, "p_best": finite(p_best)}


def _describe_option(name: str, value: float) -> str:
    return f"{name}: {value:g} {OPTIONS.get(name, '')}".rstrip()


def _describe_policy(name: str) -> str:
    if name.startswith("fixed:"):
        return f"always the arm {name.removeprefix('fixed:')}"
    return POLICIES.get(name, "a policy unknown to this version of the dashboard")
