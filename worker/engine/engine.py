"""DeepSpeed: the wrapped student, optimizer steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor

from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.distill.student import Student
from worker.engine import gradient_averaging as gradient_mean
from worker.engine import optimizer as optim
from worker.engine.checkpoint_files import CheckpointFiles
from worker.engine.optimizer import OptimizerRecipe, Schedule
from worker.models.base import Batch, Boundary

WHOLE = ZeroParamStatus.AVAILABLE
_COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
"""What DeepSpeed's engine counts."""


class Engine:
    """The student under DeepSpeed, trained one arm at a time.

    Args:
        student: The module to wrap, on the CPU.
        owned: Parameter names of ``student`` by the module that owns them. Others are frozen.
        recipe: Optimizer and schedule.
        config: DeepSpeed's configuration, without batch sizes and optimizer.
        micro_batch: Rows per rank and forward pass.
    """

    def __init__(
        self,
        student: Student,
        owned: Mapping[str, Sequence[str]],
        recipe: OptimizerRecipe,
        config: Mapping[str, Any],
        *,
        micro_batch: int,
    ) -> None:
        groups = optim.parameter_groups(student, owned, recipe.weight_decay)
        self._parameters: dict[str, list[torch.nn.Parameter]] = {module: [] for module in owned}
        for group in groups:
            self._parameters[group["module"]].extend(group["params"])
        in_groups = {id(p) for members in self._parameters.values() for p in members}
        for parameter in student.parameters():
            parameter.requires_grad_(id(parameter) in in_groups)
        self._active = set(owned)
        self.schedule = Schedule(recipe)
        self._engine, _, _, _ = deepspeed.initialize(
            model=student,
            optimizer=optim.build(groups, recipe),
            config={
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": recipe.clip,
                "steps_per_print": 10**9,
                **config,
                "train_micro_batch_size_per_gpu": micro_batch,
            },
            dist_init_required=False,
        )
        if self._engine.zero_optimization_partition_weights():
            _tell_who_reads_what(student)
        self._files = self._engine.checkpoint_engine = CheckpointFiles()
        late, alone = self._sends_late(), dist.get_world_size() == 1
        # A rank alone has nobody to agree with, but DeepSpeed packs, sends and unpacks gradients all the same.
        self._unsent = self._engine.no_sync if late and alone else nullcontext
        # What fits into one bucket is sent when the backward pass is over, whoever sends it.
        movable = [parameter for parameter in student.parameters() if parameter.requires_grad]
        several = sum(parameter.nbytes for parameter in movable) > gradient_mean.BUCKET
        self._mean = gradient_mean.GradientMean(movable) if late and several and not alone else None

    @property
    def accumulation(self) -> int:
        """Forward passes of one optimizer step."""
        return int(self._engine.gradient_accumulation_steps())

    @property
    def base_optimizer(self) -> optim.ModuleAdamW:
        """The optimizer below ZeRO's or bf16's wrapper; fetched anew each time, since loading replaces it."""
        optimizer = self._engine.optimizer
        return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The type the student computes in: its weights' own, or what DeepSpeed's ``torch_autocast`` makes of them."""
        if self._engine.torch_autocast_enabled():
            return self._engine.torch_autocast_dtype()  # type: ignore[no-any-return]
        return torch.bfloat16 if self._engine.bfloat16_enabled() else torch.float32

    def to_device(self, batch: Batch) -> dict[str, Tensor]:
        """The batch on the engine's device, floating tensors in its type; a pinned one is copied without waiting."""
        # First the copy, then the type: together they would be converted on the host, into memory that is not pinned.
        there = {name: tensor.to(self._engine.device, non_blocking=True) for name, tensor in batch.items()}
        return {name: tensor.to(self.dtype) if tensor.is_floating_point() else tensor for name, tensor in there.items()}

    def activate(self, modules: Sequence[str]) -> None:
        """Let these modules move in the steps to come and keep all others as they are, moments included.

        Call it on all ranks alike, and only between optimizer steps.
        """
        # Both are needed: without the toggle, clipping counts inactive gradients; without the optimizer's part,
        # ZeRO feeds it zero or stale ones.
        if set(modules) != self._active:
            for module, parameters in self._parameters.items():
                for parameter in parameters:
                    parameter.requires_grad_(module in modules)
            self._active = set(modules)
        # Loading gives the optimizer other groups.
        optim.activate(self.base_optimizer, modules)

    def step(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """One optimizer step over ``accumulation`` micro-batches; mean loss and terms of this rank, scalars."""
        self.schedule.apply(self.base_optimizer)
        loss, terms = self._work(batches, plan)
        self.schedule.advance(plan.trained)
        return loss, terms

    def rehearse(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """All the work of a step, after which weights, moments, buffers and counters are what they were."""
        counters = {name: getattr(self._engine, name) for name in _COUNTERS}
        # Normalisation layers keep statistics in buffers.
        buffers = [(buffer, buffer.clone()) for buffer in self._engine.module.buffers()]
        self.base_optimizer.rehearsing = True
        try:
            return self._work(batches, plan)
        finally:
            self.base_optimizer.rehearsing = False
            for buffer, kept in buffers:
                buffer.copy_(kept)
            for name, value in counters.items():
                setattr(self._engine, name, value)

    def synchronize(self) -> None:
        """Wait until the device has done what it was told, so that a clock measures work."""
        get_accelerator().synchronize()

    def has_room(self, size: int) -> bool:
        """Whether the device could have held so many more bytes at its fullest moment so far."""
        accelerator = get_accelerator()
        return size == 0 or size <= accelerator.total_memory() - accelerator.max_memory_allocated()

    def _work(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        self._train(True)
        losses, terms = [], []
        for batch, teacher in batches:
            loss, computed, _ = self._engine(batch, teacher, plan)
            with self._sending():
                self._engine.backward(loss)
            self._engine.step()
            losses.append(loss.detach())
            terms.append(computed)
        if len(losses) == 1:
            return losses[0], terms[0]
        mean = {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}
        return torch.stack(losses).mean(), mean

    def _sends_late(self) -> bool:
        """Whether DeepSpeed would send gradients as they are, in plain means, and only after the backward pass."""
        engine = self._engine
        parts = engine.zero_optimization() or engine.has_moe_layers or engine.dp_world_size != dist.get_world_size()
        halves = engine.fp16_enabled() or engine.bfloat16_enabled()
        plain = engine.gradient_average and engine.postscale_gradients() and engine.gradient_predivide_factor() == 1.0
        return bool(not parts and not halves and plain and engine.communication_data_type == torch.float32)

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Around a backward pass: gradients are sent during it, where that is of use."""
        if self._mean is None:
            with self._unsent():
                yield
            return
        last = self._engine.is_gradient_accumulation_boundary()
        with self._engine.no_sync(), self._mean.averaging() if last else nullcontext():
            yield

    def _train(self, mode: bool) -> None:
        """Set train or eval mode, unless it is set: walking all modules takes about a millisecond."""
        if self._engine.module.training != mode:
            self._engine.train(mode)

    @torch.no_grad()
    def measure(self, batch: Batch, teacher: Outputs, plan: Plan) -> tuple[dict[str, Tensor], Tensor | None]:
        """The plan's unweighted terms on one batch in eval mode, and the logits if the plan computes them."""
        self._train(False)
        _, terms, seen = self._engine(batch, teacher, plan)
        return terms, seen.logits

    @torch.no_grad()
    def look(self, batch: Batch, plan: Plan, known: Mapping[str, Boundary]) -> Outputs:
        """What the plan's modules put out on one batch in eval mode.

        Args:
            batch: The student's inputs.
            plan: Without a teacher.
            known: The student's own boundary tensors of modules that the plan does not run.
        """
        self._train(False)
        seen: Outputs = self._engine(batch, Outputs({}, {}), plan, known)[2]
        return seen

    def save(self, directory: Path, loop: Mapping[str, Any]) -> list[Path]:
        """Write weights, optimizer, schedule and the loop's state; collective.

        Args:
            directory: Where to; made if it is not there. Every rank must see the same one.
            loop: Plain values and tensors, the same on every rank.

        Returns:
            The files that this rank wrote, all on the disk.
        """
        self._files.written = []
        state = {"loop": dict(loop), "schedule": self.schedule.state()}
        self._engine.save_checkpoint(str(directory.parent), tag=directory.name, client_state=state, save_latest=False)
        return self._files.written

    def load(self, directory: Path) -> dict[str, Any]:
        """Take up what `save` wrote and return the loop's state; collective, before the first forward pass."""
        _, state = self._engine.load_checkpoint(str(directory.parent), tag=directory.name)
        self.schedule.restore(state["schedule"])
        return dict(state["loop"])

    def masters(self, modules: Sequence[str]) -> list[Tensor]:
        """This rank's tensors that the optimizer updates for these modules; its state is kept by them."""
        outer, groups = self._engine.optimizer, self.base_optimizer.param_groups
        if hasattr(outer, "fp32_partitioned_groups_flat"):
            # ZeRO 3 fills the groups only during its step.
            owner = {i: groups[group]["module"] for i, group in outer.sub_group_to_group_id.items()}
            return [tensor for i, tensor in enumerate(outer.fp32_partitioned_groups_flat) if owner[i] in modules]
        return [tensor for group in groups if group["module"] in modules for tensor in group["params"]]

    def moved_by(self, modules: Sequence[str]) -> list[Tensor]:
        """This rank's tensors that a step of these modules may change, moments aside: weights, masters, buffers."""
        weights = [getattr(p, "ds_tensor", p) for module in modules for p in self._parameters[module]]
        every = [*weights, *self.masters(modules), *self._engine.module.buffers()]
        return list({id(tensor): tensor for tensor in every}.values())

    @contextmanager
    def rewriting(self) -> Iterator[None]:
        """Within, what `moved_by` gives may be overwritten; collective."""
        # The hooks that DeepSpeed itself loads between: ZeRO 3 lets go of what it has gathered, then gathers anew.
        getattr(self._engine.optimizer, "checkpoint_event_prologue", lambda: None)()
        yield
        getattr(self._engine.optimizer, "checkpoint_event_epilogue", lambda: None)()

    def state_dict(self) -> dict[str, Tensor]:
        """The student's whole weights under their plain names, on the CPU of rank 0; empty on other ranks."""
        model = self._engine.module.model
        # Tied ones under each of their names: what loads the student expects all of them.
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        persistent = set(model.state_dict().keys())
        # ZeRO 3 keeps small parameters whole. Gathering those too would end in partitioning them, and the next forward
        # pass would find parameters in need that are not in its trace.
        parted = [p for p in model.parameters() if getattr(p, "ds_status", WHOLE) != WHOLE]
        with deepspeed.zero.GatheredParameters(parted, modifier_rank=None):
            if dist.get_rank() != 0:
                return {}
            copies = {id(tensor): _plain(tensor) for name, tensor in named if name in persistent}
            return {name: copies[id(tensor)] for name, tensor in named if name in persistent}


def _tell_who_reads_what(student: Student) -> None:
    """Name the parameters that another module than their own reads in its forward.

    ZeRO 3 would find out in the middle of a first step; the second then needs more than its trace says, and fails.
    """
    # What the model holds outside of its towers (a logit scale) is read by the wrapper.
    for parameter in student.model.parameters(recurse=False):
        deepspeed.zero.register_external_parameter(student, parameter)
    for module in student.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            for parameter in module.out_proj.parameters():
                deepspeed.zero.register_external_parameter(module, parameter)


def _plain(tensor: Tensor) -> Tensor:
    copy = tensor.detach().cpu().clone()
    return copy.float() if copy.is_floating_point() else copy
