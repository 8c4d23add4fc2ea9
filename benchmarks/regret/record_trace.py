"""Turn the history of a run into a reward trace.

    python -m benchmarks.regret.record_trace RUN.jsonl --output TRACE.json

The history is the output of ``optima runs export``. A trace has, for each arm, the rewards of its own pulls in the
order of the pulls. Rounds of the tail and diverged rounds are left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from protos.optima.v1 import bandit_pb2 as pb

# Significant digits of a reward in a trace.
DIGITS = 6


def trace(events: Iterable[pb.Event], about: str) -> dict[str, Any]:
    """Return a run's rewards by arm, with the run's specification.

    Args:
        events: The history of the run.
        about: A description of the student.

    Raises:
        ValueError: The creation of the run is missing, or an arm has no reward.
    """
    spec, info = pb.RunSpec(), pb.WorkerInfo()
    rewards: dict[str, list[tuple[int, float]]] = {}
    for event in events:
        match event.WhichOneof("kind"):
            case "run_created":
                spec = event.run_created.spec
                rewards = {arm.name: [] for arm in spec.arms}
            case "worker_started":
                info = event.worker_started.info
            case "reward_reported":
                report = event.reward_reported
                measured = report.measurement.outcome == pb.OUTCOME_MEASURED
                if report.HasField("reward") and measured and report.pull.arm in rewards:
                    rewards[report.pull.arm].append((report.pull.number, report.reward))
    if not rewards:
        raise ValueError("the history has no run_created event; write it with `optima runs export`")
    for arm, pulls in rewards.items():
        if not pulls:
            raise ValueError(f"arm {arm} has no reward; play all arms, with --policy round_robin")
    return {
        "about": about,
        "recipe": info.recipe,
        "train": pb.TrainMode.Name(spec.train).removeprefix("TRAIN_MODE_").lower(),
        "reward": pb.RewardKind.Name(spec.reward).removeprefix("REWARD_KIND_").lower(),
        "policy": spec.policy.name,
        "steps_per_round": spec.steps_per_round,
        "seed": spec.seed,
        "device": info.device,
        "versions": dict(sorted(info.versions.items())),
        "rewards": {
            arm: [float(f"{reward:.{DIGITS}g}") for _, reward in sorted(pulls)] for arm, pulls in rewards.items()
        },
    }


def history(path: Path) -> list[pb.Event]:
    """Read the events of an exported run.

    Raises:
        OSError: The file cannot be read.
        ValueError: A line is not an event.
    """
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            events.append(json_format.Parse(line, pb.Event()))
        except json_format.ParseError as error:
            raise ValueError(
                f"line {number} is not an event of a run ({error}); write it with `optima runs export`"
            ) from None
    return events


def to_json(content: dict[str, Any]) -> str:
    """Return a trace as JSON with a line for each field and each arm."""
    arms = ",\n".join(f"  {json.dumps(arm)}: {json.dumps(rewards)}" for arm, rewards in content["rewards"].items())
    fields = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items() if name != "rewards"]
    return "{\n" + ",\n".join([*fields, f' "rewards": {{\n{arms}\n }}']) + "\n}\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.regret.record_trace", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("history", type=Path, help="the output of `optima runs export RUN`")
    parser.add_argument("--about", default="", help="a description of the student")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the trace to this file (default: standard output)"
    )
    arguments = parser.parse_args(argv)
    try:
        content = to_json(trace(history(arguments.history), arguments.about))
    except (OSError, ValueError) as error:
        sys.exit(f"{arguments.history}: {error}")
    if arguments.output:
        arguments.output.write_text(content, encoding="utf-8")
    else:
        print(content, end="")


if __name__ == "__main__":
    main()
