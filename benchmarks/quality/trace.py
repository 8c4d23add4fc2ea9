"""Rewards of the study as traces that the bandit's benchmark replays: ``python -m benchmarks.quality.trace FILE``.

A trace is the longest run of a recipe in the study's records that was played round robin and without a tail.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.grid import STEPS_PER_ROUND, Cell
from benchmarks.quality.records import Records
from benchmarks.regret.record_trace import to_json
from benchmarks.traces import FOLDER

METHOD = "round robin, no tail"
ARMS = {"i": "image", "t": "text", "m": "multimodal"}


def traces(runs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the traces by file name, in the format of `benchmarks.regret.record_trace`."""
    contents: dict[str, dict[str, Any]] = {}
    for name, run in sorted(runs.items(), key=lambda item: len(item[1]["rewards"])):
        cell = Cell.from_name(name)
        if cell.method == METHOD:
            rewards: dict[str, list[float]] = {arm: [] for arm in ARMS.values()}
            for letter, reward in zip(run["arms"], run["rewards"], strict=False):
                rewards[ARMS[letter]].append(reward)
            contents[f"study-{cell.problem.replace('/', '-').replace('_', '-')}"] = {
                "about": f"The study's {cell.problem}, {cell.budget:g} s, in turn and without a tail",
                "recipe": "digits",
                "train": "forced",
                "reward": "relative",
                "policy": "round_robin",
                "steps_per_round": STEPS_PER_ROUND,
                "seed": cell.seed,
                "device": "cpu",
                "rewards": rewards,
            }
    return contents


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.trace", description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, metavar="FILE", help="the --json file of benchmarks.quality")
    parser.add_argument("--output", type=Path, default=FOLDER, metavar="DIR", help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        contents = traces(Records(options.records).all("runs"))
    except ValueError as error:
        sys.exit(f"error: {error}")
    for name, content in contents.items():
        (options.output / f"{name}.json").write_text(to_json(content), encoding="utf-8")
        print(f"{name}: {', '.join(f'{arm} {len(rewards)}' for arm, rewards in content['rewards'].items())} rewards")


if __name__ == "__main__":
    main()
