"""Run by DeepSpeed's launcher: compares the outputs of a sharded teacher with those of a whole one.

    deepspeed tests/worker/jobs/teacher_placement.py

Rank 0 prints one JSON line per placement and dtype.
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from tests.worker.jobs.tiny_coca import batch, coca  # noqa: E402
from worker.distill.arms import layer_pairs, ownership  # noqa: E402
from worker.distill.modular import ModularModel, Outputs  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.engine.sharding import shard  # noqa: E402
from worker.models.open_clip.coca import CoCaAdapter  # noqa: E402

WIDTH = 128
"""Wide enough that ZeRO treats most parameters as large ones."""
# In an order in which the modules gathered next differ from those gathered last time.
PLAYED = (None, ["image"], ["multimodal"], None, ["text"])


def student(stage: int) -> tuple[Engine, Student]:
    adapter = CoCaAdapter()
    ours, theirs = (ModularModel(coca(seed, width=WIDTH), adapter, {}) for seed in (2, 1))
    pairs = {
        module.name: layer_pairs(ours.layers[module.name], theirs.layers[module.name]) for module in adapter.modules
    }
    owned = dict(ownership(ours.model, {module.name: module.path for module in adapter.modules}).owned)
    wrapped = Student(ours, Objective(adapter, pairs, LossWeights()))
    config = {"zero_optimization": {"stage": stage}}
    engine = Engine(wrapped, wrapped.owned(owned), OptimizerRecipe(warmup_steps=0), config, micro_batch=4)
    engine.schedule.total_steps = 10
    return engine, wrapped


def furthest(one: Outputs, other: Outputs) -> float:
    """Return the largest difference between any two tensors."""
    here, there = tensors(one), tensors(other)
    assert here.keys() == there.keys()
    return max(float((here[name] - there[name]).abs().max()) for name in here)


def tensors(outputs: Outputs) -> dict[str, Tensor]:
    flat = {f"{module}/{name}": t for module, named in outputs.boundary.items() for name, t in named.items()}
    return flat | outputs.hidden


def held(teacher: Teacher) -> int:
    """Return the bytes of parameters that this rank holds between two calls."""
    # A released parameter consists of its shard, and of an empty tensor in its own place.
    sharded: Iterator[Any] = teacher.modular.model.parameters()
    tensors_held = [tensor for parameter in sharded for tensor in (parameter.ds_tensor, parameter)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_held)


def main() -> None:
    # Hooks, also ZeRO's, disable torch's fused attention, which rounds differently.
    torch.backends.mha.set_fastpath_enabled(False)
    process_group = ProcessGroup()
    planner = Planner(CoCaAdapter.modules, "multimodal", "forced")
    plans = [planner.joint() if modules is None else planner.arm(modules) for modules in PLAYED]
    for stage, placement, dtype in ((3, "zero3", torch.float32), (0, "cpu", torch.bfloat16)):
        whole, modular = (
            Teacher(ModularModel(coca(1, width=WIDTH), CoCaAdapter(), {}), process_group.device, torch.float32,
            computes=dtype,
                    placement=place)
            for place in (None, partial(shard, offload=placement == "cpu"))
        )  # fmt: skip
        engine, wrapped = student(stage)
        differ, losses = [], []
        for index, plan in enumerate(plans):
            data = batch(index, process_group.rank)
            answer = modular.run(plan.teacher, data)
            differ.append(furthest(whole.run(plan.teacher, data), answer))
            engine.activate(plan.trained)
            losses.append(engine.step([(data, answer)], plan)[0])
        total = sum(p.numel() * p.element_size() for p in whole.modular.model.parameters())
        results = {
            "placement": placement,
            "dtype": str(dtype).removeprefix("torch."),
            "differ by": max(differ),
            "finite": bool(torch.stack(losses).isfinite().all()),
            "held": round(held(modular) / total, 3),
            "output dtypes": sorted({str(tensor.dtype) for tensor in answer.hidden.values()}),
            "in the student": [name for name in wrapped.state_dict() if "teacher" in name],
            "trained": sorted({group["module"] for group in engine.base_optimizer.param_groups}),
        }
        results_of_ranks = process_group.all_gather_objects(results)
        if process_group.rank == 0:
            print("CASE " + json.dumps(results_of_ranks), flush=True)
    process_group.close()


if __name__ == "__main__":
    main()
