"""What a run's settings mean, in sentences. Says only what the spec says: unset options are "at their defaults"."""

from __future__ import annotations

from protos.optima.v1 import bandit_pb2 as pb

POLICIES = {
    "optima": "recent rewards decide: arms that paid lately are played more; how much counts as recent is learned",
    "sliding_window_ts": "Thompson sampling on the last pulls of the run only",
    "uniform": "every arm with the same probability",
    "round_robin": "the arms in turn",
    "joint": "always all modules at once (layerwise distillation)",
}
OPTIONS = {
    "exploration": "standard deviations for being unknown",
    "memory": "of the weight is left to evidence after each later reward",
    "retry": "pulls per arm, after which an arm is tried again",
    "settle": "pulls per arm, after which one that is new or promising is",
    "window": "pulls of the run count",
}
TRAIN = {
    pb.TRAIN_MODE_FORCED: "forced: only the arm's parameters move, on the teacher's boundary tensors",
    pb.TRAIN_MODE_ACTIVE: "active: only the arm's parameters move, on the student's own inputs",
    pb.TRAIN_MODE_ALL: "all: every parameter may move; the arm chooses the layer terms",
}


def options_in_words(spec: pb.RunSpec) -> list[tuple[str, str]]:
    """(what, how it is set) for every setting of a run, in the order to show them."""
    options = "; ".join(_option(name, value) for name, value in sorted(spec.policy.options.items()))
    if spec.reward == pb.REWARD_KIND_ABSOLUTE:
        reward = "absolute loss decrement of a round: before − after"
    else:
        reward = "relative loss decrement of a round: (before − after) / before"
    if spec.cost_aware:
        reward += ", divided by the arm's relative cost in seconds"
    rounds = f"{spec.rounds:,} for each worker" if spec.rounds else "without a planned end"
    tail = (
        f"the last {100 * spec.tail:.3g} % of each worker's rounds train all modules jointly" if spec.tail else "none"
    )
    return [
        ("Policy", f"{spec.policy.name}: {_policy(spec.policy.name)}"),
        ("Options", options or "all at their defaults"),
        ("Reward", reward),
        ("A round trains", TRAIN.get(spec.train, TRAIN[pb.TRAIN_MODE_FORCED])),
        ("Rounds", f"{rounds}, {spec.steps_per_round} optimizer steps each"),
        ("Joint tail", tail),
        ("Seed", str(spec.seed)),
    ]


def _option(name: str, value: float) -> str:
    return f"{name}: {value:g} {OPTIONS.get(name, '')}".rstrip()


def _policy(name: str) -> str:
    if name.startswith("fixed:"):
        return f"always the arm {name.removeprefix('fixed:')}"
    return POLICIES.get(name, "a policy this dashboard has no words for")
