"""Reward traces: the rewards of real distillations by arm, as JSON files in this folder.

To record one, play the arms in turn, so that all have long traces, and convert the run's history:

    optima serve
    deepspeed worker/train.py --bandit-addr 127.0.0.1:50051 --policy round_robin --run NAME
    optima runs export NAME --output NAME.jsonl
    python -m benchmarks.regret.record_trace NAME.jsonl --about "which student" --output benchmarks/traces/NAME.json
"""

from __future__ import annotations

import json
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
PREFIX = "trace:"


def names() -> list[str]:
    """Return the names of all traces, as `trace:<name>`."""
    return [PREFIX + path.stem for path in sorted(FOLDER.glob("*.json"))]


def rewards(name: str) -> list[list[float]]:
    """Return a trace's rewards by arm, in the order of its own pulls."""
    content = json.loads((FOLDER / f"{name.removeprefix(PREFIX)}.json").read_text(encoding="utf-8"))
    return list(content["rewards"].values())
