"""Run by two ranks: contrastive and affinity losses over the rows of both, against one rank with the whole batch.

Rank 0 prints one JSON line with the largest difference of each case.
"""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from tests.worker.jobs import bare_loop  # noqa: E402
from worker.distill.arms import layer_pairs, ownership  # noqa: E402
from worker.distill.losses import affinity  # noqa: E402
from worker.distill.modular import ModularModel  # noqa: E402
from worker.distill.objective import LossWeights, Objective  # noqa: E402
from worker.distill.plan import Planner  # noqa: E402
from worker.distill.student import Student  # noqa: E402
from worker.distill.teacher import Teacher  # noqa: E402
from worker.engine.engine import Engine  # noqa: E402
from worker.engine.optimizer import OptimizerRecipe  # noqa: E402
from worker.engine.process_group import ProcessGroup  # noqa: E402
from worker.models.all_ranks import all_ranks_together  # noqa: E402
from worker.models.open_clip.clip import ClipAdapter  # noqa: E402
from worker.models.open_clip.files import create  # noqa: E402
from worker.models.task_losses import contrastive  # noqa: E402

ROWS, WIDTH, RANKS = 4, 8, 2
PAIRED = {
    "all": None,
    "uneven": [True, False, False, False, True, True, True, True],
    "only on one rank": [False, False, False, False, True, False, True, True],
    "none": [False] * 8,
}
OPTIMIZER = OptimizerRecipe(weight_decay=0.1, clip=0.5, warmup_steps=0, eps=1e-4)
ACCUMULATION, STEPS = 2, 2


def losses(towers: nn.ModuleDict, rows: Tensor, paired: Tensor | None) -> dict[str, Tensor]:
    """Return each loss of rows [B, WIDTH]: of the images, and of the texts in reverse."""
    image, text = towers["image"](rows), towers["text"](rows.flip(1))
    scale, bias = torch.tensor([2.0]), torch.tensor([-3.0])
    student = {"image": image, "text": text, "scale": scale.exp()}
    teacher = {"image": rows, "text": rows.flip(1).tanh(), "scale": torch.tensor([9.0])}
    return {
        "softmax": contrastive(image, text, scale, paired),
        "sigmoid": contrastive(image, text, scale, paired, bias),
        "affinity": affinity(student, teacher, paired, 2.0),
    }


def losses_differ(process_group: ProcessGroup, differences: dict[str, float]) -> None:
    """Compare losses and gradients of both ranks' halves with those of the whole."""
    torch.manual_seed(0)
    towers = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("image", "text")})
    rows = torch.randn(RANKS * ROWS, WIDTH)
    mine = slice(process_group.rank * ROWS, (process_group.rank + 1) * ROWS)
    for case, marks in PAIRED.items():
        paired = None if marks is None else torch.tensor(marks)
        for loss in ("softmax", "sigmoid", "affinity"):
            whole = losses(towers, rows, paired)[loss]
            expected = [whole.detach(), *torch.autograd.grad(whole, list(towers.parameters()))]
            with all_ranks_together():
                share = losses(towers, rows[mine], None if paired is None else paired[mine])[loss]
            # The mean over the ranks, as the engine takes it of gradients, and the probe of losses.
            ours = [share.detach(), *torch.autograd.grad(share, list(towers.parameters()))]
            for tensor in ours:
                dist.all_reduce(tensor)
            differences[f"{loss}, {case}"] = max(
                float((one / RANKS - other).abs().max()) for one, other in zip(ours, expected, strict=True)
            )


def tiny(layers: int, bias: float | None) -> nn.Module:
    """Return a CLIP, with a bias a SigLIP."""
    torch.manual_seed(layers)
    text = {"context_length": 4, "vocab_size": 20, "width": 16, "heads": 2, "layers": layers}
    image = {"image_size": 8, "patch_size": 4, "width": 32, "head_width": 16, "layers": layers}
    config = {"embed_dim": 16, "vision_cfg": image, "text_cfg": text, "custom_text": True}
    return create(config | ({} if bias is None else {"init_logit_bias": bias}))


def batch(index: int, rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(100 * index + rank)
    return {
        "image": torch.randn(ROWS, 3, 8, 8, generator=generator),
        "text": torch.randint(1, 20, (ROWS, 4), generator=generator),
        "paired": torch.arange(ROWS) < 4 - 3 * rank,
    }


def whole_batch(index: int, _rank: int) -> dict[str, Tensor]:
    rows = [batch(index, rank) for rank in range(RANKS)]
    return {name: torch.cat([some[name] for some in rows]) for name in rows[0]}


def training_differs(
    process_group: ProcessGroup, stage: int, bias: float | None, differences: dict[str, float]
) -> None:
    """Compare joint steps and a measurement of two ranks with those of one process that has the whole batch."""

    def wrapped() -> tuple[Student, Teacher, dict[str, list[str]], Planner]:
        models = tiny(1, bias), tiny(2, bias)
        ours, theirs = (ModularModel(model, ClipAdapter(model), {}) for model in models)
        pairs = {name: layer_pairs(ours.layers[name], theirs.layers[name]) for name in ("image", "text")}
        # Layer terms are relative to the energy of a rank's own rows.
        student = Student(ours, Objective(ours.adapter, pairs, LossWeights(layers=0.0)))
        owned = ownership(models[0], {module.name: module.path for module in ours.adapter.modules}).owned
        teacher = Teacher(theirs, torch.device("cpu"), torch.float32)
        return student, teacher, student.owned(owned), Planner(ours.adapter.modules, None, "forced")

    student, teacher, owned, planner = wrapped()
    plan, rank = planner.joint(), process_group.rank
    config = {"zero_optimization": {"stage": stage}, "gradient_accumulation_steps": ACCUMULATION}
    engine = Engine(student, owned, OPTIMIZER, config, micro_batch=ROWS, bucket_bytes=2**10)
    engine.activate(plan.trained)
    case = f"stage {stage}, {'softmax' if bias is None else 'sigmoid'}"
    probe = batch(99, rank)
    terms, _ = engine.measure(probe, teacher.run(plan.teacher, probe), plan)
    shares = process_group.all_gather(torch.stack(list(terms.values())))
    for step in range(STEPS):
        indices = range(step * ACCUMULATION, (step + 1) * ACCUMULATION)
        rows = [batch(index, rank) for index in indices]
        engine.step([(some, teacher.run(plan.teacher, some)) for some in rows], plan)
    weights = engine.state_dict()
    if not weights:
        return
    student, teacher, owned, planner = wrapped()
    probe = whole_batch(99, 0)
    with torch.no_grad():
        _, whole, _ = student.eval()(probe, teacher.run(plan.teacher, probe), plan)
    assert set(whole) == set(terms) == {"task/contrastive", "logits/affinity"}
    differences[f"{case}, probe"] = float((shares.mean(0) - torch.stack(list(whole.values()))).abs().max())
    expected = bare_loop.train(
        student, teacher, planner, owned, OPTIMIZER, (None,), steps=STEPS, accumulation=ACCUMULATION, world=1,
        batches=whole_batch,
    )  # fmt: skip
    differences[case] = max(float((weights[name] - value).abs().max()) for name, value in expected.items())
    moved = max(float((tiny(1, bias).get_parameter(name) - value).abs().max()) for name, value in expected.items())
    assert moved > 1e-4


def main() -> None:
    process_group = ProcessGroup()
    differences: dict[str, float] = {}
    losses_differ(process_group, differences)
    for stage, bias in ((0, None), (0, -3.0), (3, None)):
        training_differs(process_group, stage, bias, differences)
    process_group.barrier()
    if process_group.rank == 0:
        print(json.dumps(differences), flush=True)
    process_group.close()


main()
