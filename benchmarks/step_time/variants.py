"""The ways of doing one job that `benchmarks.step_time` compares: the worker's, and those written by hand.

All are built from the same weights and see the same batches.
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

from benchmarks.step_time import handwritten_loops as step_loops
from benchmarks.step_time.handwritten_loops import CoCa, Distillation, Loop, Pairs
from worker.data.base import Batch
from worker.data.loader import fixed_batch
from worker.distill.arms import JOINT
from worker.engine.process_group import Ranks
from worker.evaluation.probe import Probe
from worker.recipe.recipe import read_recipe
from worker.setup import models as assemble
from worker.setup.build import assemble_rig
from worker.training.checkpoint import Checkpoints
from worker.training.loop_state import LoopState
from worker.training.rollback import RoundStart
from worker.training.trainer import Trainer

BATCHES = 4
"""Different ones, made before: data cost nothing here, for nobody."""


@dataclass(frozen=True)
class Variant:
    """One way of doing a job.

    Attributes:
        name: Whose.
        arm: What is trained.
        run: Takes so many steps and returns the loss of the last.
        held: The tensors that are there between two steps.
        first: The loss at the common weights on the first batch.
    """

    name: str
    arm: str
    run: Callable[[int], float]
    held: Callable[[], list[Tensor]]
    first: float


class Makers:
    """Makes variants.

    Args:
        path: The recipe.
        ranks: The job's processes.
        alone: One variant only will be made: it need not have copies of the models.
    """

    def __init__(self, path: Path, ranks: Ranks, *, alone: bool) -> None:
        self.recipe = read_recipe(path, {})
        self.ranks = ranks
        # The teacher may have no checkpoint: then its weights are drawn.
        torch.manual_seed(self.recipe.seed)
        self.models = assemble.models(self.recipe)
        self.pairs: Pairs = {module: list(pairs) for module, pairs in self.models.pairs.items()}
        self.data = assemble.data(self.recipe, self.models)
        half = {"bf16", "torch_autocast"} & self.recipe.deepspeed.keys()
        self.dtype = torch.bfloat16 if half else torch.float32
        size = self.recipe.data.batch_size
        first = [(index * ranks.world + ranks.rank) * size for index in range(BATCHES)]
        self._rows = [fixed_batch(self.data, self.data.train, one, size) for one in first]
        originals = (self.models.student.model, self.models.teacher.model)
        self._bare = originals if alone else copy.deepcopy(originals)
        self._alone = alone

    def batches(self) -> Iterator[Batch]:
        """The same for every variant, without end."""
        return itertools.cycle(self._rows)

    def bare(self, name: str, arm: str) -> Variant:
        """A loop written by hand, joint or of one module."""
        chosen = [pair for module, pairs in self.pairs.items() if arm in (JOINT, module) for pair in pairs]
        student, teacher = self._pair()
        hooked = [CoCa(model, [pair[side] for pair in chosen]) for side, model in enumerate((student, teacher))]
        loop = Distillation(*hooked, self.pairs, None if arm == JOINT else arm)
        lr, deepspeed = self.recipe.optimizer.lr, self.recipe.deepspeed
        if name == "pytorch":
            made = step_loops.with_pytorch(loop, self.batches(), lr, self.ranks.device, self.dtype)
        else:
            made = step_loops.with_deepspeed(
                loop, self.batches(), lr, self.recipe.data.batch_size, deepspeed, self.dtype
            )
        return _variant(name, arm, made, student, teacher)

    def torchdistill(self) -> Variant:
        """The joint job in torchdistill."""
        from benchmarks.step_time.torchdistill import with_torchdistill

        student, teacher = self._pair()
        lr = self.recipe.optimizer.lr
        made = with_torchdistill(student, teacher, self.pairs, self.batches(), lr, self.ranks.device, self.dtype)
        return _variant("torchdistill", JOINT, made, student, teacher)

    def _pair(self) -> tuple[Any, Any]:
        """A student and a teacher without the worker's hooks."""
        student, teacher = self._bare if self._alone else copy.deepcopy(self._bare)
        for model in (student, teacher):
            for module in model.modules():
                module._forward_hooks.clear()
        # The contrastive term does not train it, and it is owned by no module.
        student.logit_scale.requires_grad_(False)
        return student, teacher.requires_grad_(False).to(self.ranks.device, self.dtype).eval()


class Worker:
    """The worker's own trainer, with one engine for every arm; its rounds are as long as a turn."""

    def __init__(self, makers: Makers, directory: Path) -> None:
        self._recipe = makers.recipe.fixed(steps_per_round=1, probe_batches=1, evaluate_every=1)
        self._models, ranks, rest = makers.models, makers.ranks, self._recipe
        rig = self._rig = assemble_rig(self._recipe, self._models, ranks)
        rig.engine.schedule.total_steps = 10**6
        probe = Probe(rig.engine, ranks, rig.planner, rig.objective, rig.teacher, rig.data, rest.probe)
        checkpoints = Checkpoints(directory, rest.checkpoint, ranks, "run", "worker")
        self._trainer = Trainer(
            rest, self._models.arms, ranks, rig.engine, rig.teacher, rig.planner, probe, checkpoints, LoopState(),
            makers.batches(), 0.0,
        )  # fmt: skip
        self._first = rig.engine.to_device(next(makers.batches()))

    def variants(self) -> list[Variant]:
        """Joint, and every arm."""
        return [Variant("worker", arm, self._rounds(arm), self._held, self._loss(arm)) for arm in self._arms]

    def copied(self) -> int:
        """Bytes that a joint round can be taken back with."""
        saved = RoundStart(self._rig.engine, self._trainer.plan(JOINT).trained).state()
        tensors = [*saved["tensors"], *(value for moments in saved["moments"] for value in moments.values())]
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def _arms(self) -> tuple[str, ...]:
        return (JOINT, *self._models.arms)

    def _rounds(self, arm: str) -> Callable[[int], float]:
        def run(count: int) -> float:
            trainer = self._trainer
            trainer.recipe = self._recipe.model_copy(update={"steps_per_round": count})
            trainer.train(trainer.plan(arm))
            loss = float(trainer.state.rows[-1]["loss"])
            trainer.state.next_round()
            return loss

        return run

    def _loss(self, arm: str) -> float:
        plan = self._trainer.plan(arm)
        self._rig.engine.activate(plan.trained)
        loss, _ = self._rig.engine.rehearse([(self._first, self._rig.teacher.run(plan.teacher, self._first))], plan)
        return float(loss)

    def _held(self) -> list[Tensor]:
        return _tensors(self._rig.engine.base_optimizer, self._models.student.model, self._models.teacher.model)


def _variant(name: str, arm: str, loop: Loop, *models: torch.nn.Module) -> Variant:
    def run(count: int) -> float:
        loss = torch.zeros(())
        for _ in range(count):
            loss = loop.step()
        return float(loss)

    return Variant(name, arm, run, lambda: _tensors(loop.optimizer, *models), run(1))


def _tensors(optimizer: torch.optim.Optimizer, *models: torch.nn.Module) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    weights = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
    return [*moments, *weights, *(weight.grad for weight in weights if weight.grad is not None)]
