"""The cost of the worker's step beside loops written by hand: ``python -m benchmarks.step_time --json FILE``.

In one run, on the same models and batches, these take turns: (a) a bare loop around DeepSpeed's engine for layerwise
distillation of all modules, (a′) the same in plain PyTorch, (b) our worker, joint and arm by arm, (b′) a bare loop for
each arm that computes only what the arm needs, (c) torchdistill, joint. The models are the built-in recipe's small CoCa
and one of 50 M parameters, with 1 and 2 ranks; where there is a GPU, the paper's CoCa-Large in bf16 and the small one.
Then a run with a bandit server measures the shares of bandit and probe, and the time until the first step. The exit
status is 1 if a threshold is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.step_time.models import write
from benchmarks.step_time.run import job, job_and_run
from benchmarks.step_time.thresholds import report, thresholds

PACKAGES = ("optima-distill", "torch", "deepspeed", "open_clip_torch", "torchdistill")
# Size, ranks, seconds of the turns.
QUICK = (("small", 1, 3.0),)
FULL = (("small", 1, 40.0), ("small", 2, 40.0), ("50m", 1, 120.0), ("50m", 2, 120.0))
ALONE = (("50m", 1),)
GPU = (("l14", 1, 45.0), ("small", 1, 15.0))
QUICK_BATCH = 32
"""Half the built-in recipe's, for more turns in the same time."""
QUICK_ROUNDS, FULL_ROUNDS, GPU_ROUNDS = 4, 40, 6
RUN_FLAGS = ("--set", "data.batch_size=64", "--set", "probe.questions=256")
"""The run has the built-in recipe's batch size, but fewer questions: how many teacher and student answer before the
first step is up to the user."""


def measure(quick: bool, directory: Path) -> dict[str, Any]:
    """Measure everything and return the results as JSON values."""
    # The first launch also does the run with a bandit server.
    gpu = torch.cuda.is_available() and not quick
    (size, _, seconds), *others = QUICK if quick else GPU if gpu else FULL
    data = {"data": {"name": "digits", "batch_size": QUICK_BATCH}} if quick else {}
    recipe = write(size, directory, **data)
    rounds = QUICK_ROUNDS if quick else GPU_ROUNDS if gpu else FULL_ROUNDS
    first, run = job_and_run(recipe, RUN_FLAGS, rounds, directory, "--seconds", str(seconds))
    jobs = [{"size": size, **first}]
    for size, ranks, seconds in others:
        jobs.append({"size": size, **job(write(size, directory), ranks, "--seconds", str(seconds))})
    alone = []
    for size, ranks in () if quick or gpu else ALONE:
        each = {variant: job(write(size, directory), ranks, "--only", variant) for variant in ("worker", "bare")}
        resident = {variant: results["resident_bytes"] for variant, results in each.items()}
        alone.append({"size": size, "ranks": ranks, "resident_bytes": resident})
    return {"jobs": jobs, "alone": alone, "run": run}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.step_time", description=(__doc__ or "").splitlines()[0], allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="only the small model on 1 rank, in less than a minute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where results are written")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    options = parse(arguments)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="optima-steps-") as directory:
        results = measure(options.quick, Path(directory))
    print(report(results))
    checked = thresholds(results)
    if options.json:
        about = {
            "command": shlex.join(["python", "-m", "benchmarks.step_time", *(arguments or sys.argv[1:])]),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "machine": platform.platform(),
            "cpus": os.cpu_count(),
            "load": os.getloadavg(),
            "seconds": round(time.monotonic() - began, 1),
            "bars": [
                {"what": threshold.what, "figure": threshold.figure, "limit": threshold.limit, "met": threshold.met}
                for threshold in checked
            ],
        }
        options.json.write_text(json.dumps(about | results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    missed = [threshold.what for threshold in checked if not threshold.met]
    if missed:
        sys.exit(f"missed: {'; '.join(missed)}")


if __name__ == "__main__":
    main()
