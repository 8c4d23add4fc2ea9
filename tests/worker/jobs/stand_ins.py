"""Run by DeepSpeed's launcher: trains arms of a model that declares nothing, and checks what must not change.

    deepspeed tests/worker/jobs/stand_ins.py STAGE:DTYPE[:recompute]...

Rank 0 prints one JSON line per case.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402

from tests.worker.jobs import bare_loop  # noqa: E402
from tests.worker.jobs.freezing import ACCUMULATION, by_module, moments, take_steps  # noqa: E402
from tests.worker.jobs.tiny_vlm import batch, models, vlm  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Planner  # noqa: E402
from worker.distill.projection import Projections  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.engine.sharding import shard  # noqa: E402
from worker.setup.dry_run import DryRun  # noqa: E402
from worker.setup.forced import with_stand_ins  # noqa: E402
from worker.setup.models import Models  # noqa: E402
from worker.setup.shape_check import compare_shapes  # noqa: E402

ARMS = {
    "eye": ["eye"],
    "bridge": ["bridge"],
    "lower": ["lower"],
    "ends": ["eye", "upper"],
    "language": ["lower", "upper"],
}
PLAYED = (None, ["bridge"], ["eye", "upper"], ["lower", "upper"], ["eye"])
OPTIMIZER = OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=0, eps=1e-4)
STEPS = 1


def made(checkpointing: bool) -> tuple[Models, Student]:
    """Return teacher and student, which is narrower so that there are projections."""
    pair = with_stand_ins(models(vlm(1), vlm(2, depth=2, width=8), ARMS), batch(0))
    if checkpointing:
        pair.adapter.checkpoint_activations(pair.student.model)
    torch.manual_seed(3)
    objective = Objective(pair.adapter, pair.pairs, LossWeights())
    widths = compare_shapes(pair, batch(0), forced=True, objective=objective)
    maps = {names: torch.eye(16)[:width] for names, width in widths.boundary.items()}
    return pair, Student(pair.student, objective, Projections(widths.hidden, maps))


def planner(pair: Models) -> Planner:
    assert pair.adapter.logits is not None
    return Planner(pair.adapter.modules, pair.adapter.logits[0], "forced")


def run_case(process_group: ProcessGroup, stage: int, dtype: str, checkpointing: bool) -> dict[str, object]:
    pair, student = made(checkpointing)
    owned = dict(pair.ownership.owned)
    zero = {"stage": stage} | ({"stage3_param_persistence_threshold": 0} if stage == 3 else {})
    config = {
        "zero_optimization": zero,
        "bf16": {"enabled": dtype == "bf16"},
        "torch_autocast": {"enabled": dtype == "autocast", "dtype": "bfloat16"},
        "gradient_accumulation_steps": ACCUMULATION,
    }
    engine = Engine(student, student.owned(owned), OPTIMIZER, config, micro_batch=4, bucket_bytes=2**10)
    placement = (lambda modular, device: shard(modular, device, offload=False)) if stage == 3 else None
    teacher = Teacher(pair.teacher, process_group.device, engine.dtype, placement=placement)
    plans = planner(pair)
    rows = [engine.to_device(batch(90 + i, process_group.rank)) for i in range(ACCUMULATION)]
    faults: list[str] = []
    index = 0
    for turn, modules in enumerate(PLAYED):
        if turn == 2:
            before = by_module(engine.state_dict(), owned), moments(engine)
            DryRun(pair, process_group, engine, student, teacher, plans, rows).check_arms(repeats=0)
            same = all(
                torch.equal(a, b)
                for name in owned
                for a, b in zip(before[0][name], by_module(engine.state_dict(), owned)[name], strict=True)
            )
            if not same or before[1] != moments(engine):
                faults.append("the dry run changed something")
        plan = plans.joint() if modules is None else plans.arm(modules)
        before = by_module(engine.state_dict(), owned), moments(engine)
        engine.activate(plan.trained)
        index = take_steps(engine, teacher, plan, lambda number: batch(number, process_group.rank), index, STEPS)
        weights, state = by_module(engine.state_dict(), owned), moments(engine)
        for module in owned:
            same = all(torch.equal(a, b) for a, b in zip(before[0][module], weights[module], strict=True))
            if process_group.rank == 0 and same == (module in plan.trained):
                faults.append(f"arm {modules}: weights of {module} {'unchanged' if same else 'changed'}")
            if (before[1].get(module) == state.get(module)) == (module in plan.trained):
                faults.append(f"arm {modules}, rank {process_group.rank}: moments of {module} are wrong")
        engine.measure(engine.to_device(batch(0)), teacher.run(plan.teacher, engine.to_device(batch(0))), plan)
    ours = engine.state_dict()
    off = None
    if ours and dtype == "fp32":
        pair, student = made(checkpointing=False)
        bare_teacher = Teacher(pair.teacher, torch.device("cpu"), torch.float32)
        theirs = bare_loop.train(
            student,
            bare_teacher,
            planner(pair),
            student.owned(pair.ownership.owned),
            OPTIMIZER,
            PLAYED,
            steps=STEPS,
            accumulation=ACCUMULATION,
            world=process_group.world_size,
            batches=batch,
        )
        off = max(float((ours[name] - value).abs().max()) for name, value in theirs.items())
    return {"faults": faults, "off": off}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+")
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    process_group = ProcessGroup()
    for name in arguments.cases:
        stage, dtype, *recompute = name.split(":")
        case = run_case(process_group, int(stage), dtype, checkpointing=bool(recompute))
        if process_group.rank == 0:
            print("CASE " + json.dumps({"name": name, **case}), flush=True)
    process_group.close()


if __name__ == "__main__":
    main()
