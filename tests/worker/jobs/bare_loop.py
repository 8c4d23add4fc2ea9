"""The engine's job in plain PyTorch: one process, one AdamW per module, no DeepSpeed."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from worker.distill.plan import Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.optimizer import OptimizerRecipe

Batches = Callable[[int, int], dict[str, Tensor]]
"""(index, rank) -> batch."""


def train(
    student: Student,
    teacher: Teacher,
    planner: Planner,
    owned: Mapping[str, Sequence[str]],
    recipe: OptimizerRecipe,
    arms: Sequence[Sequence[str] | None],
    *,
    steps: int,
    accumulation: int,
    world: int,
    batches: Batches,
) -> dict[str, Tensor]:
    """Train the arms in order, ``steps`` steps each (None: joint), and return the bare model's weights."""
    parameters = dict(student.named_parameters())
    by_module = {module: [parameters[name] for name in names] for module, names in owned.items()}
    optimizers = {module: _adamw(members, recipe) for module, members in by_module.items()}
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    student.train()
    index = 0
    for modules in arms:
        plan = planner.joint() if modules is None else planner.arm(modules)
        moving = [parameter for module in plan.trained for parameter in by_module[module]]
        for parameter in moving:
            parameter.requires_grad_(True)
        for _ in range(steps):
            for _ in range(accumulation):
                for rank in range(world):
                    batch = batches(index, rank)
                    loss, _, _ = student(batch, teacher.run(plan.teacher, batch), plan)
                    (loss / (accumulation * world)).backward()
                index += 1
            torch.nn.utils.clip_grad_norm_(moving, recipe.clip)
            for module in plan.trained:
                optimizers[module].step()
            for parameter in moving:
                parameter.grad = None
        for parameter in moving:
            parameter.requires_grad_(False)
    return {name: value.detach().clone() for name, value in student.model.named_parameters()}


def _adamw(parameters: Sequence[torch.nn.Parameter], recipe: OptimizerRecipe) -> torch.optim.AdamW:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps)
