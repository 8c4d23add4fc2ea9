"""Run by DeepSpeed's launcher on a machine with a GPU: trains a few steps and checks how.

    deepspeed tests/worker/jobs/on_gpu.py

Prints one JSON line.
"""

import json
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402

from tests.worker.jobs.tiny_coca import batch, coca  # noqa: E402
from worker.data import build  # noqa: E402
from worker.data.loader import training_batches  # noqa: E402
from worker.distill.arms import layer_pairs, ownership  # noqa: E402
from worker.distill.modular import ModularModel  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.engine.sharding import shard  # noqa: E402
from worker.models.open_clip.coca import CoCaAdapter  # noqa: E402
from worker.training.rollback import Rollback  # noqa: E402


def main() -> None:
    process_group = ProcessGroup()
    adapter = CoCaAdapter()
    student, *teachers = (ModularModel(coca(seed, width=64), adapter, {}) for seed in (2, 1, 1, 1))
    pairs = {p.name: layer_pairs(student.layers[p.name], teachers[0].layers[p.name]) for p in adapter.modules}
    owned = dict(ownership(student.model, {module.name: module.path for module in adapter.modules}).owned)
    wrapped = Student(student, Objective(adapter, pairs, LossWeights()))
    engine = Engine(
        wrapped,
        wrapped.owned(owned),
        OptimizerRecipe(warmup_steps=0),
        {"zero_optimization": {"stage": 2}, "bf16": {"enabled": True}},
        micro_batch=4,
    )
    engine.schedule.total_steps = 10
    placements = (None, *(partial(shard, offload=offload) for offload in (False, True)))
    replicas = [
        Teacher(t, process_group.device, engine.dtype, placement=p) for t, p in zip(teachers, placements, strict=True)
    ]
    planner = Planner(adapter.modules, "multimodal", "forced")

    pinned = next(training_batches(build("digits"), batch_size=4, rank=0, world=1, start=0, workers=1))
    losses = []
    for index, plan in enumerate(islice([planner.joint(), planner.arm(["image"]), planner.joint()], 3)):
        data = engine.to_device(batch(index, process_group.rank))
        answers = [replica.run(plan.teacher, data) for replica in replicas]
        alike = [
            all(torch.allclose(answer.hidden[name], answers[0].hidden[name], atol=2e-2) for name in answers[0].hidden)
            for answer in answers
        ]
        engine.activate(plan.trained)
        # Only fused attention: raises where a kernel does not support it.
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]):
            losses.append(float(engine.step([(data, answers[0])], plan)[0]))
    flash = sdpa_kernel(SDPBackend.FLASH_ATTENTION)
    with torch.no_grad(), flash:
        # The image tower has no mask, so it can use flash attention.
        student.model.get_submodule("visual").train()(data["image"])
    plan = planner.arm(["image"])
    start, moving = Rollback(engine, plan.trained), engine.mutable_tensors(plan.trained)
    before = [tensor.clone() for tensor in moving]
    engine.activate(plan.trained)
    engine.step([(data, replicas[0].run(plan.teacher, data))], plan)
    moved = any(not torch.equal(a, b) for a, b in zip(before, moving, strict=True))
    start.restore()
    # DeepSpeed gives parameters an attribute `ds_tensor`.
    sharded: list[Any] = list(teachers[2].model.parameters())
    results = {
        "rolled back": moved and all(torch.equal(a, b) for a, b in zip(before, moving, strict=True)),
        "copied to": start._saved["tensors"][0].device.type,
        "saved from": start.state()["tensors"][0].device.type,
        "backend": dist.get_backend(),
        "device": process_group.device.type,
        "dtype": str(engine.dtype),
        "pinned": all(tensor.is_pinned() for tensor in pinned.values()),
        "teachers alike": alike,
        "on the host": [parameter.ds_tensor.device.type for parameter in sharded][:1],
        "finite": all(map(torch.isfinite, map(torch.tensor, losses))),
    }
    if process_group.rank == 0:
        print("GPU " + json.dumps(results), flush=True)
    process_group.close()


if __name__ == "__main__":
    main()
