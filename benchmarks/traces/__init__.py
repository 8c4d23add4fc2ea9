"""Reward traces: what the arms of real distillations have paid, as JSON beside this file.

Record one: play an arm after the other, so that all have long traces, and turn the run's history into one.

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
    """Every trace, as `trace:<name>`."""
    return [PREFIX + path.stem for path in sorted(FOLDER.glob("*.json"))]


def rewards(name: str) -> list[list[float]]:
    """A trace's rewards, by arm and own pulls."""
    content = json.loads((FOLDER / f"{name.removeprefix(PREFIX)}.json").read_text(encoding="utf-8"))
    return list(content["rewards"].values())
