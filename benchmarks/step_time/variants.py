"""The implementations of one job that `benchmarks.step_time` compares: the worker's, and those written by hand.

All are built from the same weights and train on the same batches.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.step_time.handwritten_loops import CoCa, Distillation, Loop, Pairs, with_deepspeed, with_pytorch
from worker.data.base import Batch
from worker.data.loader import TrainingBatches, first_batches
from worker.distill.arms import JOINT
from worker.engine.process_group import ProcessGroup
from worker.recipe.recipe import read_recipe
from worker.setup.build import build
from worker.setup.models import build_data, load_models
from worker.training.rollback import Rollback
from worker.training.trainer import Trainer

BATCHES = 4
"""Number of different batches. They are read in advance: this benchmark does not time the loading of data."""


@dataclass(frozen=True)
class Variant:
    """One implementation of a job.

    Attributes:
        name: Its name.
        arm: The arm that it trains.
        run: Takes a number of steps and returns the loss of the last one.
        tensors: Returns the tensors that exist between two steps.
        first_loss: The loss on the first batch, with the common weights.
    """

    name: str
    arm: str
    run: Callable[[int], float]
    tensors: Callable[[], list[Tensor]]
    first_loss: float


class VariantFactory:
    """Creates the variants that are written by hand, and holds what all variants share.

    Args:
        path: The recipe.
        process_group: The job's ranks.
        alone: Whether only one variant will be created: it then needs no copies of the models.
    """

    def __init__(self, path: Path, process_group: ProcessGroup, *, alone: bool) -> None:
        self.recipe = read_recipe(path, {})
        self.process_group = process_group
        # Without a checkpoint the teacher's weights are drawn.
        torch.manual_seed(self.recipe.seed)
        self.models = load_models(self.recipe)
        self.pairs: Pairs = {module: list(pairs) for module, pairs in self.models.pairs.items()}
        self.data = build_data(self.recipe, self.models)
        half = {"bf16", "torch_autocast"} & self.recipe.deepspeed.keys()
        self.dtype = torch.bfloat16 if half else torch.float32
        size = self.recipe.data.batch_size
        rank, world_size = process_group.rank, process_group.world_size
        self._batches = first_batches(self.data, count=BATCHES, size=size, rank=rank, world=world_size)
        originals = (self.models.student.model, self.models.teacher.model)
        self._bare = originals if alone else copy.deepcopy(originals)
        self._alone = alone

    def batches(self) -> Iterator[Batch]:
        """Return an endless iterator over the same batches for every variant."""
        return itertools.cycle(self._batches)

    def handwritten(self, name: str, arm: str) -> Variant:
        """Return a loop written by hand, of joint or of one module.

        Args:
            name: ``bare``, around DeepSpeed's engine, or ``pytorch``.
            arm: ``joint`` or a module.
        """
        compared = [pair for module, pairs in self.pairs.items() if arm in (JOINT, module) for pair in pairs]
        student, teacher = self._pair()
        losses = Distillation(
            CoCa(student, [ours for ours, _ in compared]),
            CoCa(teacher, [theirs for _, theirs in compared]),
            self.pairs,
            None if arm == JOINT else arm,
        )
        lr, batch_size, deepspeed = self.recipe.optimizer.lr, self.recipe.data.batch_size, self.recipe.deepspeed
        if name == "pytorch":
            loop = with_pytorch(losses, self.batches(), lr, self.process_group.device, self.dtype)
        else:
            loop = with_deepspeed(losses, self.batches(), lr, batch_size, deepspeed, self.dtype)
        return _variant(name, arm, loop, student, teacher)

    def torchdistill(self) -> Variant:
        """Return the joint job in torchdistill."""
        from benchmarks.step_time.torchdistill import with_torchdistill

        student, teacher = self._pair()
        lr, device = self.recipe.optimizer.lr, self.process_group.device
        loop = with_torchdistill(student, teacher, self.pairs, self.batches(), lr, device, self.dtype)
        return _variant("torchdistill", JOINT, loop, student, teacher)

    def _pair(self) -> tuple[Any, Any]:
        """Return a student and a teacher without the worker's hooks."""
        student, teacher = self._bare if self._alone else copy.deepcopy(self._bare)
        for model in (student, teacher):
            for module in model.modules():
                module._forward_hooks.clear()
        # The contrastive term does not train it, and no module owns it.
        student.logit_scale.requires_grad_(False)
        return student, teacher.requires_grad_(False).to(self.process_group.device, self.dtype).eval()


class Worker:
    """The worker's own trainer, with one engine for all arms; its rounds are as long as a turn.

    Args:
        factory: Holds what all variants share.
    """

    def __init__(self, factory: VariantFactory) -> None:
        fixed = factory.recipe.fixed(steps_per_round=1, probe_batches=1, evaluate_every=1)
        self._components = build(fixed, factory.models, factory.process_group)
        # A constant decay: how many steps there will be depends on the machine.
        self._components.engine.schedule.total_steps = 10**6
        probe = self._components.probe(fixed.probe)
        batches = TrainingBatches(factory.batches(), {}, stream=False)
        self._trainer = Trainer(fixed, self._components, probe, batches)
        self._first_batch = self._components.engine.to_device(next(factory.batches()))

    def variants(self) -> list[Variant]:
        """Return joint and every arm."""
        arms = (JOINT, *self._components.models.arms)
        return [Variant("worker", arm, self._rounds(arm), self._tensors, self._first_loss(arm)) for arm in arms]

    def rollback_bytes(self) -> int:
        """Return the size of the copy from which a diverged joint round is rolled back."""
        saved = Rollback(self._components.engine, self._components.plan(JOINT).trained).state()
        tensors = [*saved["tensors"], *(value for moments in saved["moments"] for value in moments.values())]
        return sum(tensor.nbytes for tensor in tensors)

    def _rounds(self, arm: str) -> Callable[[int], float]:
        plan = self._components.plan(arm)

        def run(steps: int) -> float:
            self._trainer.train(plan, steps)
            loss = float(self._trainer.state.rows[-1]["loss"])
            self._trainer.state.next_round()
            return loss

        return run

    def _first_loss(self, arm: str) -> float:
        plan, engine = self._components.plan(arm), self._components.engine
        engine.activate(plan.trained)
        outputs = self._components.teacher.run(plan.teacher, self._first_batch)
        loss, _ = engine.rehearse([(self._first_batch, outputs)], plan)
        return float(loss)

    def _tensors(self) -> list[Tensor]:
        models = self._components.models
        return _tensors(self._components.engine.base_optimizer, models.student.model, models.teacher.model)


def _variant(name: str, arm: str, loop: Loop, *models: torch.nn.Module) -> Variant:
    def run(steps: int) -> float:
        loss = torch.zeros(())
        for _ in range(steps):
            loss = loop.step()
        return float(loss)

    return Variant(name, arm, run, lambda: _tensors(loop.optimizer, *models), run(1))


def _tensors(optimizer: torch.optim.Optimizer, *models: torch.nn.Module) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    return [*moments, *weights, *(weight.grad for weight in weights if weight.grad is not None)]
