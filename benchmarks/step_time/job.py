"""One rank of a job of `benchmarks.step_time`, started by DeepSpeed's launcher.

    deepspeed benchmarks/step_time/job.py RECIPE.yaml --json FILE [--seconds N] [--only VARIANT] [--play FLAG …]

With ``--play`` it first runs the worker as a user does, with those flags of `worker/train.py`, so that one launch
serves both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=("worker", "bare"))
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--play", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.play:
        from worker import train

        if status := train.main(options.play):
            sys.exit(status)
        from deepspeed.utils import groups

        # DeepSpeed remembers the process groups of the job that has ended.
        importlib.reload(groups)
    measure(options)


def measure(options: argparse.Namespace) -> None:
    """Measure the variants in a process group of their own; rank 0 writes the results."""
    # Imported here, so that a job with --play imports them when a user's worker would.
    from benchmarks.step_time.turns import WARM_UP, measure_variants, peak_resident_bytes
    from benchmarks.step_time.variants import VariantFactory, Worker
    from worker.distill.arms import JOINT
    from worker.engine.process_group import ProcessGroup

    process_group = ProcessGroup()
    factory = VariantFactory(options.recipe, process_group, alone=options.only is not None)
    results: dict[str, Any] = {"device": process_group.device_kind, "ranks": process_group.world_size}
    for role, model in (("teacher", factory.models.teacher.model), ("student", factory.models.student.model)):
        results[f"{role}_parameters"] = sum(parameter.numel() for parameter in model.parameters())
    if options.only is None:
        results |= measure_variants(factory, options.seconds)
    else:
        joint = Worker(factory).variants()[0] if options.only == "worker" else factory.handwritten("bare", JOINT)
        joint.run(WARM_UP)
        results["resident_bytes"] = peak_resident_bytes()
    if process_group.is_rank0:
        options.json.write_text(json.dumps(results), encoding="utf-8")
    process_group.close()


if __name__ == "__main__":
    main()
