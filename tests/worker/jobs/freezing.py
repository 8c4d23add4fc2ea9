"""Run by DeepSpeed's launcher: trains arms of a small CoCa and checks every bit that must not change.

    deepspeed tests/worker/jobs/freezing.py STAGE...

Rank 0 prints one JSON line per case.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.worker.jobs import bare_loop  # noqa: E402
from tests.worker.jobs.tiny_coca import batch, coca  # noqa: E402
from tests.worker.jobs.tiny_models import tiny_models  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Mode, Plan, Planner  # noqa: E402
from worker.distill.projection import Projections  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.models.base import Batch  # noqa: E402
from worker.setup.dry_run import DryRun  # noqa: E402
from worker.setup.models import Models  # noqa: E402
from worker.setup.shape_check import compare_shapes  # noqa: E402

BUCKET_BYTES = 2**13
"""So small that the gradients of a tiny model fill several buckets, and are averaged during the backward pass."""
STEPS = 2
ACCUMULATION = 2
ARMS = {"image": ["image"], "sight": ["image", "multimodal"], "text": ["text"], "multimodal": ["multimodal"]}
# Joint first, so that every module has moments that could leak; overlapping arms; one arm twice.
PLAYED = (None, ["image"], ["image", "multimodal"], ["text"], ["multimodal"], ["image"])
# By the number of ranks: each dtype at every stage, with the two modes in turn; autocast is for stage 0.
CASES: dict[int, tuple[tuple[str, Mode], ...]] = {
    1: (("fp32", "forced"), ("bf16", "active"), ("autocast", "active")),
    2: (("fp32", "active"), ("bf16", "forced"), ("autocast", "forced")),
}
# A large epsilon: where a gradient is zero except for rounding, Adam would take steps of the rounding.
OPTIMIZER = OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=0, eps=1e-4)


def masters(engine: Engine) -> list[tuple[str, Tensor]]:
    """Return this rank's tensors that the optimizer updates, each with its module."""
    groups = engine.base_optimizer.param_groups
    outer = engine._engine.optimizer
    if hasattr(outer, "fp32_partitioned_groups_flat"):
        # ZeRO 3 fills the groups only during its step.
        flat = outer.fp32_partitioned_groups_flat
        return [(groups[outer.sub_group_to_group_id[i]]["module"], tensor) for i, tensor in enumerate(flat)]
    return [(group["module"], parameter) for group in groups for parameter in group["params"]]


def moments(engine: Engine) -> dict[str, str]:
    """Return a digest per module of this rank's optimizer state and masters."""
    digests: dict[str, str] = {}
    for module, parameter in masters(engine):
        state = engine.base_optimizer.state.get(parameter, {})
        digest = hashlib.sha256()
        for tensor in (parameter.data, *(state[key] for key in sorted(state))):
            digest.update(torch.as_tensor(tensor).detach().float().numpy().tobytes())
        digests[module] = digests.get(module, "") + digest.hexdigest()
    return digests


def by_module(weights: dict[str, Tensor], owned: dict[str, tuple[str, ...]]) -> dict[str, list[Tensor]]:
    return {module: [weights[name] for name in names if weights] for module, names in owned.items()}


def take_steps(
    engine: Engine, teacher: Teacher, plan: Plan, batch_of: Callable[[int], Batch], index: int, steps: int = STEPS
) -> int:
    """Take optimizer steps from a batch on, and return the number of the batch behind them."""
    for _ in range(steps):
        micro_batches = []
        for _ in range(ACCUMULATION):
            data = engine.to_device(batch_of(index))
            micro_batches.append((data, teacher.run(plan.teacher, data)))
            index += 1
        engine.step(micro_batches, plan)
    return index


def models(checkpointing: bool) -> Models:
    """Return teacher and student, which is narrower so that there are projections."""
    small = {"layers": 1, "text_layers": 1}
    pair = tiny_models(coca(1, **small), coca(2, width=16, **small), ARMS)
    if checkpointing:
        pair.adapter.checkpoint_activations(pair.student.model)
    return pair


def wrapped(pair: Models, ranks: int) -> Student:
    torch.manual_seed(3)
    widths = compare_shapes(pair, batch(0), forced=True)
    maps = {pair: torch.eye(32)[:width] for pair, width in widths.boundary.items()}
    # The contrastive loss of several ranks is no mean of theirs (tests/worker/jobs/contrastive.py).
    weights = LossWeights() if ranks == 1 else LossWeights(task={"caption": 1.0})
    return Student(pair.student, Objective(pair.adapter, pair.pairs, weights), Projections(widths.hidden, maps))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stages", nargs="+", type=int)
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    process_group = ProcessGroup()
    for stage in arguments.stages:
        for dtype, mode in CASES[process_group.world_size]:
            if dtype == "autocast" and stage:
                continue
            # At even stages with one mode, at odd ones with the other.
            checkpointing = (mode == "active") == (stage % 2 == 0)
            case = run_case(process_group, stage, dtype, mode, checkpointing)
            if process_group.rank == 0:
                print("CASE " + json.dumps({"stage": stage, "dtype": dtype, "mode": mode, **case}), flush=True)
    process_group.close()


def run_case(process_group: ProcessGroup, stage: int, dtype: str, mode: Mode, checkpointing: bool) -> dict[str, object]:
    pair = models(checkpointing)
    owned = dict(pair.ownership.owned)
    student = wrapped(pair, process_group.world_size)
    engine = Engine(
        student,
        student.owned(owned),
        OPTIMIZER,
        {
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": dtype == "bf16"},
            "torch_autocast": {"enabled": dtype == "autocast", "dtype": "bfloat16"},
            "gradient_accumulation_steps": ACCUMULATION,
        },
        micro_batch=4,
        bucket_bytes=BUCKET_BYTES,
    )
    teacher = Teacher(pair.teacher, process_group.device, engine.dtype)
    planner = Planner(pair.adapter.modules, "multimodal", mode)
    rows = [engine.to_device(batch(90 + i, process_group.rank)) for i in range(ACCUMULATION)]
    dry_run = DryRun(pair, process_group, engine, student, teacher, planner, rows)
    faults: list[str] = []
    moved: set[str] = set()

    def check(step: str, trained: tuple[str, ...], before: tuple[dict[str, list[Tensor]], dict[str, str]]) -> None:
        """Check that exactly the trained modules have changed weights, masters, moments and step counts."""
        weights, state = by_module(engine.state_dict(), owned), moments(engine)
        for module in owned:
            if process_group.rank == 0:
                same = all(torch.equal(a, b) for a, b in zip(before[0][module], weights[module], strict=True))
                if same == (module in trained):
                    faults.append(f"{step}: weights of {module} {'unchanged' if same else 'changed'}")
                if not same:
                    moved.add(module)
            if (before[1].get(module) == state.get(module)) == (module in trained):
                faults.append(f"{step}, rank {process_group.rank}: moments of {module} are wrong")

    index = 0
    for turn, modules in enumerate(PLAYED):
        if turn == 3:
            # By now there are moments that the dry run could change.
            before = by_module(engine.state_dict(), owned), moments(engine)
            counted = engine._engine.global_steps, engine._engine.micro_steps
            checks = dry_run.check_arms(repeats=0)
            check("dry run", (), before)
            if counted != (engine._engine.global_steps, engine._engine.micro_steps):
                faults.append("dry run: the engine counted it")
            if [check.arm for check in checks] != [*ARMS, "joint"]:
                faults.append("dry run: not every arm is checked")
        plan = planner.joint() if modules is None else planner.arm(modules)
        before = by_module(engine.state_dict(), owned), moments(engine)
        engine.activate(plan.trained)
        index = take_steps(engine, teacher, plan, lambda number: batch(number, process_group.rank), index)
        check(f"arm {modules}", plan.trained, before)
    faults_of_ranks: list[list[str]] = [[] for _ in range(process_group.world_size)]
    torch.distributed.all_gather_object(faults_of_ranks, faults)
    ours = engine.state_dict()
    off = off_the_bare_loop(ours, mode, process_group.world_size) if ours and dtype == "fp32" else None
    return {"faults": [fault for some in faults_of_ranks for fault in some], "moved": sorted(moved), "off": off}


def off_the_bare_loop(ours: dict[str, Tensor], mode: Mode, world: int) -> float:
    """Return the largest difference between our weights and those of a bare PyTorch loop without checkpointing."""
    pair = models(checkpointing=False)
    student = wrapped(pair, world)
    theirs = bare_loop.train(
        student,
        Teacher(pair.teacher, torch.device("cpu"), torch.float32),
        Planner(pair.adapter.modules, "multimodal", mode),
        student.owned(pair.ownership.owned),
        OPTIMIZER,
        PLAYED,
        steps=STEPS,
        accumulation=ACCUMULATION,
        world=world,
        batches=batch,
    )
    return max(float((ours[name] - value).abs().max()) for name, value in theirs.items())


if __name__ == "__main__":
    main()
