"""Run by DeepSpeed's launcher: trains a small CoCa twice, once without interruption.

The other time rounds diverge and are rolled back, and a new engine continues from a checkpoint in the middle of a
round. Both must end alike.

    deepspeed tests/worker/jobs/engine_state.py DIRECTORY STAGE...

Rank 0 prints one JSON line per ZeRO stage and dtype.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402

from tests.worker.jobs.freezing import by_module, moments  # noqa: E402
from tests.worker.jobs.tiny_coca import batch, coca  # noqa: E402
from worker.distill.arms import layer_pairs, ownership  # noqa: E402
from worker.distill.modular import ModularModel  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Plan, Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.models.open_clip.coca import CoCaAdapter  # noqa: E402
from worker.training.rollback import Rollback  # noqa: E402

BUCKET_BYTES = 2**13
"""So small that the gradients of a tiny model fill several buckets, and are averaged during the backward pass."""
ROUNDS: tuple[list[str] | None, ...] = (None, ["image"], ["text"])
"""Joint first, then two arms; three steps each."""


class Job:
    """An engine around a student, and steps of it."""

    def __init__(self, process_group: ProcessGroup, stage: int, dtype: str, seed: int) -> None:
        adapter = CoCaAdapter()
        teacher, student = (ModularModel(coca(s, layers=1, text_layers=1), adapter, {}) for s in (1, seed))
        pairs = {
            module.name: layer_pairs(student.layers[module.name], teacher.layers[module.name])
            for module in adapter.modules
        }
        self.owned = dict(ownership(student.model, {module.name: module.path for module in adapter.modules}).owned)
        self.process_group = process_group
        wrapped = Student(student, Objective(adapter, pairs, LossWeights()))
        self.engine = Engine(
            wrapped,
            wrapped.owned(self.owned),
            OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=4),
            {"zero_optimization": {"stage": stage}, "bf16": {"enabled": dtype == "bf16"}},
            micro_batch=4,
            bucket_bytes=BUCKET_BYTES,
        )
        self.engine.schedule.total_steps = 12
        self.teacher = Teacher(teacher, process_group.device, self.engine.dtype)
        self.planner = Planner(adapter.modules, "multimodal", "forced")

    def trained(self, number: int) -> tuple[str, ...]:
        return self._plan(number).trained

    def step(self, number: int, step: int, *, rotten: bool = False) -> float:
        """Take one step of a round and return its loss; a rotten step's targets are NaN."""
        plan = self._plan(number)
        self.engine.activate(plan.trained)
        data = self.engine.to_device(batch(3 * number + step, self.process_group.rank))
        teacher = self.teacher.run(plan.teacher, data)
        if rotten:
            for hidden in teacher.hidden.values():
                hidden[0] = float("nan")
        loss, _ = self.engine.step([(data, teacher)], plan)
        return float(loss)

    def end(self) -> tuple[dict[str, list[torch.Tensor]], dict[str, str], dict[str, object]]:
        """Return all weights, on rank 0, digests of this rank's moments, and the schedule."""
        weights = by_module(self.engine.state_dict(), self.owned)
        return weights, moments(self.engine), self.engine.schedule.state()

    def _plan(self, number: int) -> Plan:
        modules = ROUNDS[number]
        return self.planner.joint() if modules is None else self.planner.arm(modules)


def straight(
    process_group: ProcessGroup, stage: int, dtype: str
) -> tuple[dict[str, list[torch.Tensor]], dict[str, str], object]:
    job = Job(process_group, stage, dtype, seed=2)
    for number in range(len(ROUNDS)):
        for step in range(3):
            job.step(number, step)
    return job.end()


def broken(
    process_group: ProcessGroup, stage: int, dtype: str, directory: Path, faults: list[str]
) -> tuple[dict[str, list[torch.Tensor]], dict[str, str], object]:
    """Take the same steps, but every round diverges first, and in the second one a new engine continues."""
    job = Job(process_group, stage, dtype, seed=2)
    for number in range(len(ROUNDS)):
        start = Rollback(job.engine, job.trained(number))
        before = job.end()
        job.step(number, 0)
        if number == 1:
            loop = {"round": number}
            job.engine.save(directory / "engine", loop)
            torch.save(start.state(), directory / f"{process_group.rank}.pt")
            saved = torch.load(directory / f"{process_group.rank}.pt", weights_only=True)
            after = job.end()
            job = Job(process_group, stage, dtype, seed=3)
            if job.engine.load(directory / "engine") != loop:
                faults.append("the loop's state differs")
            compare(f"round {number}, loaded", after, job.end(), faults)
            start = Rollback(job.engine, job.trained(number), saved)
        if torch.isfinite(torch.tensor(job.step(number, 1, rotten=True))):
            faults.append(f"round {number} did not diverge")
        job.step(number, 2)
        start.restore()
        compare(f"round {number}, rolled back", before, job.end(), faults)
        for step in range(3):
            job.step(number, step)
    return job.end()


def compare(where: str, one: tuple, other: tuple, faults: list[str]) -> None:  # type: ignore[type-arg]
    for module, weights in one[0].items():
        if not all(torch.equal(a, b) for a, b in zip(weights, other[0][module], strict=True)):
            faults.append(f"{where}: weights of {module} differ")
    for module, digest in one[1].items():
        if digest != other[1][module]:
            faults.append(f"{where}: moments of {module} differ")
    if one[2] != other[2]:
        faults.append(f"{where}: the schedule differs: {one[2]} and {other[2]}")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("stages", type=int, nargs="+")
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    process_group = ProcessGroup()
    for stage, dtype in itertools.product(arguments.stages, ("fp32", "bf16")):
        faults: list[str] = []
        expected = straight(process_group, stage, dtype)
        directory = arguments.directory / f"{stage}-{dtype}"
        compare("at the end", expected, broken(process_group, stage, dtype, directory, faults), faults)
        faults_of_ranks = process_group.all_gather_objects(faults)
        if process_group.rank == 0:
            print("CASE " + json.dumps({"stage": stage, "dtype": dtype, "faults": faults_of_ranks}), flush=True)
    process_group.close()


if __name__ == "__main__":
    main()
