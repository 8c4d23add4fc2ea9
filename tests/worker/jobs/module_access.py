"""Run on ranks: moves a module from one engine to another as a file, and checks that both then train it alike.

    tests/worker/jobs/module_access.py FILE write|read STAGE:DTYPE...

With ``write`` each case trains a module, writes it, trains on and writes the result. With ``read`` each case starts
from scratch, takes the first file of every writer, and must come to the writer's result.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402

from tests.worker.jobs.tiny_coca import batch, coca  # noqa: E402
from tests.worker.jobs.tiny_models import tiny_models  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.module_access import read_module, write_module  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.exchange.module_state import ModuleState  # noqa: E402

STEPS = 3
# The optimizer's epsilon is large: where a gradient is zero except for rounding, Adam would take steps of the rounding.


class Case:
    """An engine over a fresh student, and its teacher."""

    def __init__(self, process_group: ProcessGroup, case: str) -> None:
        stage, dtype = case.split(":")
        torch.manual_seed(3)
        pair = tiny_models(coca(1), coca(2), {"image": ["image"], "multimodal": ["multimodal"]})
        student = Student(pair.student, Objective(pair.adapter, pair.pairs, LossWeights()))
        self.engine = Engine(
            student,
            student.owned(dict(pair.ownership.owned)),
            OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=4, decay="constant", eps=1e-4),
            {"zero_optimization": {"stage": int(stage)}, "bf16": {"enabled": dtype == "bf16"}},
            micro_batch=4,
        )
        self.teacher = Teacher(pair.teacher, process_group.device, self.engine.dtype)
        self.plan = Planner(pair.adapter.modules, "multimodal", "forced").arm(["image"])

    def train(self, first: int) -> None:
        """Take steps on the image tower; every rank has the same rows, so their number changes nothing."""
        self.engine.activate(self.plan.trained)
        for index in range(first, first + STEPS):
            rows = self.engine.to_device(batch(index))
            self.engine.step([(rows, self.teacher.run(self.plan.teacher, rows))], self.plan)

    def state(self) -> bytes:
        return read_module(self.engine, "image", 1).to_bytes()


def distance(one: ModuleState, other: ModuleState) -> float:
    """Return the largest difference between two modules' weights, relative to the largest weight."""
    assert one.weights.keys() == other.weights.keys()
    return max(
        float((one.weights[name] - other.weights[name]).abs().max() / one.weights[name].abs().max().clamp(min=1e-3))
        for name in one.weights
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file", type=Path)
    parser.add_argument("what")
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    process_group = ProcessGroup()
    for name in arguments.cases:
        case = Case(process_group, name)
        start = case.state()
        case.train(0)
        middle = case.state()
        case.train(STEPS)
        end = case.state()
        # Back to the middle, and once more: the same, bit for bit.
        write_module(case.engine, "image", ModuleState.from_bytes(middle))
        again = case.state() == middle
        case.train(STEPS)
        result = {"case": name, "comes back": again, "repeats": case.state() == end}
        write_module(case.engine, "image", ModuleState.from_bytes(start))
        result["starts"] = case.state() == start
        if arguments.what == "read":
            for writer in sorted(arguments.file.glob("*.middle")):
                write_module(case.engine, "image", ModuleState.from_bytes(writer.read_bytes()))
                case.train(STEPS)
                theirs = ModuleState.from_bytes(writer.with_suffix(".end").read_bytes())
                result[writer.stem] = distance(ModuleState.from_bytes(case.state()), theirs)
        elif process_group.rank == 0:
            stem = name.replace(":", "-")
            (arguments.file / f"{stem}.middle").write_bytes(middle)
            (arguments.file / f"{stem}.end").write_bytes(end)
        if process_group.rank == 0:
            print("CASE " + json.dumps(result), flush=True)
    process_group.close()


if __name__ == "__main__":
    main()
