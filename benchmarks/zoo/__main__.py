"""Which models can be distilled: tiny ones of many classes, each through the whole job.

    python -m benchmarks.zoo --json zoo.json

prints a table, the one in docs/models.md, and exits with 1 if a class falls short of a stage.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import transformers

from benchmarks.zoo.configs import CONFIGS
from benchmarks.zoo.trial import STAGES, Trial, run


def main() -> int:
    """Try the classes, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", type=Path, help="write the outcomes to this file")
    parser.add_argument("--only", nargs="+", choices=sorted(CONFIGS), metavar="NAME", help="try these classes only")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    trials = []
    for name in arguments.only or CONFIGS:
        trials.append(run(name))
        print(f"{name}: {trials[-1].fault or 'all stages'} ({trials[-1].seconds} s)", file=sys.stderr, flush=True)
    print(table(trials))
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(trial) for trial in trials], indent=1) + "\n", encoding="utf-8")
    short = [trial.name for trial in trials if len(trial.passed) < len(STAGES)]
    if short:
        print(f"{len(short)} of {len(trials)} classes fall short: {', '.join(short)}", file=sys.stderr)
    return bool(short)


def table(trials: Sequence[Trial]) -> str:
    """Return the outcomes as a table in Markdown: a module's layers in the teacher, and in the student."""
    lines = ["| class | modules (layers of teacher and student) | arms | " + " | ".join(STAGES) + " |"]
    lines.append("|---" * (3 + len(STAGES)) + "|")
    for trial in trials:
        modules = ", ".join(
            f"{module} {before}" if before == after else f"{module} {before} → {after}"
            for module, (before, after) in trial.modules.items()
        )
        stages = " | ".join("yes" if stage in trial.passed else "no" for stage in STAGES)
        lines.append(f"| {trial.model} | {modules} | {', '.join(trial.arms)} | {stages} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
