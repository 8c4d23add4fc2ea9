"""Run by DeepSpeed's launcher: trains arms of a small CoCa and looks at every bit that should not move.

    deepspeed tests/worker/jobs/freezing.py STAGE DTYPE...

Prints one JSON line per case from rank 0.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import open_clip  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from worker.arms import layer_pairs, ownership  # noqa: E402
from worker.engine import Engine, Ranks  # noqa: E402
from worker.models.coca import CoCaAdapter  # noqa: E402
from worker.objective import LossWeights, Objective  # noqa: E402
from worker.optimizer import OptimizerRecipe  # noqa: E402
from worker.parted import Parted  # noqa: E402
from worker.plan import Planner  # noqa: E402
from worker.student import Student  # noqa: E402
from worker.teacher import Teacher  # noqa: E402

TEXT = {"context_length": 8, "vocab_size": 16, "width": 32, "heads": 2, "layers": 2}
STEPS = 3


def coca(seed: int, dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = open_clip.CoCa(
        embed_dim=32,
        vision_cfg={"image_size": 8, "layers": 2, "width": 32, "head_width": 16, "patch_size": 4,
                    "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
        text_cfg={**TEXT, "embed_cls": True, "output_tokens": True},
        multimodal_cfg=TEXT,
        nonscalar_logit_scale=True,
    )  # fmt: skip
    torch.nn.init.normal_(model.text_decoder.text_projection, std=32**-0.5)
    return model.to(dtype)


def batch(index: int, rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1000 * index + rank)
    text = torch.randint(1, 16, (4, 8), generator=generator)
    text[:, 6:] = 0
    return {
        "image": torch.randn(4, 3, 8, 8, generator=generator),
        "text": text,
        "paired": torch.tensor([True, True, False, True]),
    }


def masters(engine: Engine) -> list[tuple[str, Tensor]]:
    """This rank's tensors that the optimizer updates, each with its module."""
    groups = engine.base_optimizer.param_groups
    outer = engine._engine.optimizer
    if hasattr(outer, "fp32_partitioned_groups_flat"):
        # ZeRO 3 fills the groups only during its step.
        flat = outer.fp32_partitioned_groups_flat
        return [(groups[outer.sub_group_to_group_id[i]]["module"], tensor) for i, tensor in enumerate(flat)]
    return [(group["module"], parameter) for group in groups for parameter in group["params"]]


def moments(engine: Engine) -> dict[str, str]:
    """A digest per module of this rank's optimizer state, and of the masters that it updates."""
    digests: dict[str, str] = {}
    for module, parameter in masters(engine):
        state = engine.base_optimizer.state.get(parameter, {})
        digest = hashlib.sha256()
        for tensor in (parameter.data, *(state[key] for key in sorted(state))):
            digest.update(torch.as_tensor(tensor).detach().float().numpy().tobytes())
        digests[module] = digests.get(module, "") + digest.hexdigest()
    return digests


def modules_of(weights: dict[str, Tensor], owned: dict[str, tuple[str, ...]]) -> dict[str, list[Tensor]]:
    return {module: [weights[name] for name in names if weights] for module, names in owned.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", type=int)
    parser.add_argument("dtypes", nargs="+", choices=["fp32", "bf16"])
    parser.add_argument("--local_rank", type=int)
    arguments = parser.parse_args()
    ranks = Ranks()
    for dtype in arguments.dtypes:
        for mode in ("forced", "active"):
            case = run_case(ranks, arguments.stage, dtype, mode)
            if ranks.rank == 0:
                print("CASE " + json.dumps({"dtype": dtype, "mode": mode, **case}), flush=True)
    ranks.close()


def run_case(ranks: Ranks, stage: int, dtype: str, mode: str) -> dict[str, object]:
    adapter = CoCaAdapter()
    teacher, student = (
        Parted(coca(1, torch.float32), adapter, {}),
        Parted(coca(2, torch.float32), adapter, {}),
    )
    pairs = {part.name: layer_pairs(student.layers[part.name], teacher.layers[part.name]) for part in adapter.parts}
    owned = dict(ownership(student.model, {part.name: part.path for part in adapter.parts}).owned)
    engine = Engine(
        Student(student, Objective(adapter, pairs, LossWeights())),
        owned,
        OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=0),
        {
            "zero_optimization": {"stage": stage},
            "bf16": {"enabled": dtype == "bf16"},
            "gradient_accumulation_steps": 2,
        },
        micro_batch=4,
        total_steps=0,
    )
    frozen_teacher = Teacher(teacher, ranks.device, engine.dtype)
    planner = Planner(adapter.parts, "multimodal", mode)
    faults, moved, index = [], [], 0
    # Joint first, so that every module has moments that could leak; then each arm, the first one twice.
    for modules in (None, ["image"], ["multimodal"], ["text"], ["image"]):
        plan = planner.joint() if modules is None else planner.arm(modules)
        weights, state = modules_of(engine.state_dict(), owned), moments(engine)
        engine.activate(plan.trained)
        for _ in range(STEPS):
            micro_batches = []
            for _ in range(2):
                data = engine.to_device(batch(index, ranks.rank))
                micro_batches.append((data, frozen_teacher.run(plan.teacher, data)))
                index += 1
            engine.step(micro_batches, plan)
        after, state_after = modules_of(engine.state_dict(), owned), moments(engine)
        for module in owned:
            if ranks.rank == 0:
                same = all(torch.equal(a, b) for a, b in zip(weights[module], after[module], strict=True))
                if same == (module in plan.trained):
                    faults.append(f"arm {modules}: weights of {module} {'kept' if same else 'moved'}")
                if not same:
                    moved.append(module)
            if (state.get(module) == state_after.get(module)) == (module in plan.trained):
                faults.append(f"arm {modules}, rank {ranks.rank}: moments of {module} are wrong")
    everyones = [ranks.broadcast(faults)] if ranks.world == 1 else gather_faults(ranks, faults)
    return {"faults": [fault for some in everyones for fault in some], "moved": sorted(set(moved))}


def gather_faults(ranks: Ranks, faults: list[str]) -> list[list[str]]:
    boxes: list[list[str]] = [[] for _ in range(ranks.world)]
    torch.distributed.all_gather_object(boxes, faults)
    return boxes


if __name__ == "__main__":
    main()
