"""One rank of what `benchmarks.step_time` measures; DeepSpeed's launcher starts it:

    deepspeed benchmarks/step_time/job.py RECIPE.yaml --json FILE [--seconds N] [--only VARIANT] [--play FLAG …]

With ``--play`` it is first the worker as its user runs it, with those flags of `worker/train.py`: a launch serves both.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=("worker", "bare"))
    parser.add_argument("--local_rank", type=int)
    parser.add_argument("--play", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if asked.play:
        from worker import train

        if status := train.main(asked.play):
            sys.exit(status)
        from deepspeed.utils import groups

        # DeepSpeed remembers the process groups of the job that has ended.
        importlib.reload(groups)
    measure(asked)


def measure(asked: argparse.Namespace) -> None:
    """The variants, in a process group of their own."""
    # A job that plays first imports them when its user's would.
    from benchmarks.step_time.turns import WARM_UP, compared, resident
    from benchmarks.step_time.variants import Makers, Worker
    from worker.distill.arms import JOINT
    from worker.engine.process_group import Ranks

    ranks = Ranks()
    makers = Makers(asked.recipe, ranks, alone=asked.only is not None)
    told: dict[str, Any] = {"device": ranks.device_kind, "ranks": ranks.world}
    both = (makers.models.teacher.model, makers.models.student.model)
    told["teacher_parameters"], told["student_parameters"] = (sum(p.numel() for p in m.parameters()) for m in both)
    with tempfile.TemporaryDirectory() as directory:
        if asked.only is None:
            told |= compared(makers, Path(directory), asked.seconds)
        else:
            only = (
                Worker(makers, Path(directory)).variants()[0] if asked.only == "worker" else makers.bare("bare", JOINT)
            )
            only.run(WARM_UP)
            told["resident_bytes"] = resident()
    if ranks.rank == 0:
        asked.json.write_text(json.dumps(told), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main()
