"""Run by DeepSpeed's launcher: trains arms of a model with BatchNorm, and checks what must not move.

    deepspeed tests/worker/jobs/running_statistics.py DIRECTORY STAGE...

Rank 0 prints one JSON line per stage.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from tests.worker.models.generic_model import GenericAdapter  # noqa: E402
from worker.distill.arms import frozen_parameters, layer_pairs, ownership  # noqa: E402
from worker.distill.modular import ModularModel, Outputs  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Plan, Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.models.base import Batch  # noqa: E402
from worker.training.rollback import Rollback  # noqa: E402

ACCUMULATION = 2
ARMS: tuple[list[str] | None, ...] = (None, ["left"], ["right"], ["head"], ["left", "right"])
FROZEN = ("left.3", "right.2", "left.0.bias")
NEVER = (*FROZEN, "stem")
"""Frozen layers, and one in no module."""


class Net(nn.Module):
    """Two towers and a head; BatchNorm with and without weights, frozen, and in no module."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.BatchNorm1d(4)
        self.left = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.right = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 8))
        self.head = nn.Linear(8, 3)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm1d):
                # What bf16 cannot hold.
                module.running_mean = torch.randn(module.num_features)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(self.left(x) + self.right(x))
        return out


def rows(index: int, rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * index + rank)
    return {"x": torch.randn(6, 4, generator=generator) * (1 + rank) + rank}


class Job:
    """An engine around a student, and steps of it."""

    def __init__(self, process_group: ProcessGroup, stage: int, seed: int, dtype: str) -> None:
        adapter = GenericAdapter()
        net, loaded = Net(seed), Net(2).state_dict()
        # A resumed job loads the same model again, and what is frozen is still as it was loaded.
        net.load_state_dict({name: value for name, value in loaded.items() if name.startswith(NEVER)}, strict=False)
        teacher, student = ModularModel(Net(1), adapter, {}), ModularModel(net, adapter, {})
        pairs = {
            module.name: layer_pairs(student.layers[module.name], teacher.layers[module.name])
            for module in adapter.modules
        }
        paths = {module.name: module.path for module in adapter.modules}
        self.ownership = ownership(student.model, paths, frozen_parameters(student.model, FROZEN))
        wrapped = Student(student, Objective(adapter, pairs, LossWeights()))
        config = {
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": dtype == "bf16"},
            "gradient_accumulation_steps": ACCUMULATION,
        }
        self.engine = Engine(
            wrapped, wrapped.owned(self.ownership.owned), OptimizerRecipe(warmup_steps=0), config, micro_batch=6
        )
        self.teacher = Teacher(teacher, process_group.device, self.engine.dtype)
        self.planner = Planner(adapter.modules, "head", "active")
        self.process_group = process_group
        self.index = 0

    def train(self, arm: list[str] | None, steps: int = 2) -> tuple[str, ...]:
        plan = self.planner.joint() if arm is None else self.planner.arm(arm)
        self.engine.activate(plan.trained)
        for _ in range(steps):
            self.engine.step(self._batches(plan), plan)
        return plan.trained

    def rehearse(self) -> None:
        plan = self.planner.joint()
        self.engine.activate(plan.trained)
        self.engine.rehearse(self._batches(plan), plan)

    def _batches(self, plan: Plan) -> list[tuple[Batch, Outputs]]:
        self.index += ACCUMULATION
        batches = [self.engine.to_device(rows(self.index + i, self.process_group.rank)) for i in range(ACCUMULATION)]
        return [(batch, self.teacher.run(plan.teacher, batch)) for batch in batches]

    def statistics(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.engine._engine.module.model.named_buffers()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[str]:
    return sorted({name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("directory", type=Path)
    parser.add_argument("stages", type=int, nargs="+")
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    process_group = ProcessGroup()
    for stage in arguments.stages:
        for dtype in ("fp32", "bf16"):
            case = run_case(process_group, stage, dtype, arguments.directory / f"{stage}-{dtype}")
            cases = process_group.all_gather_objects(case)
            if process_group.rank == 0:
                print("CASE " + json.dumps({"stage": stage, "dtype": dtype, "ranks": cases}), flush=True)
    process_group.close()


def run_case(process_group: ProcessGroup, stage: int, dtype: str, directory: Path) -> dict[str, object]:
    job = Job(process_group, stage, seed=2, dtype=dtype)
    start, weights = job.statistics(), job.engine.state_dict()
    job.rehearse()
    case: dict[str, object] = {"rehearsed": moved(start, job.statistics())}
    for arm in ARMS:
        before = job.statistics()
        job.train(arm)
        after = job.statistics()
        case["+".join(arm or ["joint"])] = moved(before, after)
        flat = torch.cat([buffer.double().flatten() for buffer in after.values()])
        all_ranks = process_group.all_gather(flat)
        case["alike"] = bool(case.get("alike", True)) and bool((all_ranks == all_ranks[0]).all())
    copy = Rollback(job.engine, ["left"])
    before = job.statistics()
    job.train(["left"], steps=1)
    copy.restore()
    case["rolled back"] = moved(before, job.statistics())
    # A new process continues as this one does.
    job.engine.save(directory / "engine", {})
    resumed = Job(process_group, stage, seed=3, dtype=dtype)
    resumed.engine.load(directory / "engine")
    resumed.index = job.index
    case["loaded"] = moved(job.statistics(), resumed.statistics())
    for one in (job, resumed):
        one.train(None)
    case["resumed"] = moved(job.statistics(), resumed.statistics())
    exported, again = job.engine.state_dict(), resumed.engine.state_dict()
    case["weights that stayed"] = sorted(
        name for name, _ in Net(0).named_parameters() if weights and torch.equal(weights[name], exported[name])
    )
    case["exported"] = moved(exported, again)
    plain = Net(2).state_dict()
    case["as they were"] = all(torch.equal(plain[name], exported[name]) for name in exported if name.startswith(NEVER))
    return case


if __name__ == "__main__":
    main()
