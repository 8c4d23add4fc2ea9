"""The student under DeepSpeed: optimizer steps, measurements, its state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.accelerator import get_accelerator
from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus
from torch import Tensor

from worker.data.entries import map_tensors
from worker.distill.modular import Outputs
from worker.distill.plan import Plan
from worker.distill.student import Student
from worker.engine import optimizer
from worker.engine.checkpoint_files import CheckpointFiles
from worker.engine.gradient_averaging import BUCKET_BYTES, GradientAverager
from worker.engine.optimizer import ModuleAdamW, OptimizerRecipe, Schedule
from worker.engine.scalars import flatten_scalars, full_names, view_scalars
from worker.engine.sharding import let_go
from worker.engine.statistics import RunningStatistics
from worker.errors import RecipeError
from worker.models.all_ranks import all_ranks_together
from worker.models.base import Batch, Boundary
from worker.models.precision import lossy, round_buffers

WHOLE = ZeroParamStatus.AVAILABLE
_COUNTERS = ("global_steps", "global_samples", "micro_steps", "skipped_steps")
"""The counters of DeepSpeed's engine."""


class Engine:
    """The student under DeepSpeed, trained one arm at a time.

    Args:
        student: The module to wrap, on the CPU.
        owned: Parameter names of ``student`` by the module that owns them. All others are frozen.
        recipe: Optimizer and schedule.
        config: DeepSpeed's configuration, without batch sizes and optimizer.
        micro_batch: Rows per rank and forward pass.
        bucket_bytes: Size of the buckets in which gradients are averaged during the backward pass.

    Attributes:
        schedule: The learning rates.
    """

    def __init__(
        self,
        student: Student,
        owned: Mapping[str, Sequence[str]],
        recipe: OptimizerRecipe,
        config: Mapping[str, Any],
        *,
        micro_batch: int,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        scalars = flatten_scalars(student.model)
        self._scalars = full_names(scalars)
        groups = optimizer.parameter_groups(student, owned, recipe.weight_decay)
        self._parameters: dict[str, list[torch.nn.Parameter]] = {module: [] for module in owned}
        for group in groups:
            self._parameters[group["module"]].extend(group["params"])
        in_groups = {id(p) for members in self._parameters.values() for p in members}
        for parameter in student.parameters():
            parameter.requires_grad_(id(parameter) in in_groups)
        self._active = set(owned)
        self._statistics = RunningStatistics(student, owned)
        fixed = self._statistics.fixed() | {id(p) for p in student.parameters() if id(p) not in in_groups}
        self._unrounded = _unrounded(student.model, fixed) if _computes_in_bf16(config) else {}
        self.schedule = Schedule(recipe)
        self._engine, _, _, _ = deepspeed.initialize(
            model=student,
            optimizer=optimizer.create_optimizer(groups, recipe),
            config={
                "zero_allow_untested_optimizer": True,
                "gradient_clipping": recipe.clip,
                "steps_per_print": 10**9,
                **config,
                "train_micro_batch_size_per_gpu": micro_batch,
            },
            dist_init_required=False,
        )
        if self._engine.bfloat16_enabled():
            round_buffers(student.model, torch.bfloat16)
        if self._engine.zero_optimization_partition_weights():
            _register_external_parameters(student)
            let_go(self._engine, student.enclosing)
            student.renew_hooks()
        view_scalars(student, student.model, scalars)
        self._files = self._engine.checkpoint_engine = CheckpointFiles()
        plain, alone = self._averages_plainly(), dist.get_world_size() == 1
        # A single rank has nothing to average, but DeepSpeed packs, sends and unpacks its gradients all the same.
        self._without_averaging = self._engine.no_sync if plain and alone else nullcontext
        # Gradients that fit into one bucket are sent after the backward pass in any case; DeepSpeed does that well.
        trainable = [parameter for parameter in student.parameters() if parameter.requires_grad]
        several_buckets = sum(parameter.nbytes for parameter in trainable) > bucket_bytes
        overlaps = plain and several_buckets and not alone
        self._averager = GradientAverager(trainable, bucket_bytes) if overlaps else None

    @property
    def accumulation(self) -> int:
        """Micro-batches of one optimizer step."""
        return int(self._engine.gradient_accumulation_steps())

    @property
    def base_optimizer(self) -> ModuleAdamW:
        """The optimizer inside ZeRO's or bf16's wrapper; looked up each time, since loading replaces it."""
        outer = self._engine.optimizer
        return getattr(outer, "optimizer", outer)  # type: ignore[no-any-return]

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the student computes in: that of its weights, or that of DeepSpeed's ``torch_autocast``."""
        if self._engine.torch_autocast_enabled():
            return self._engine.torch_autocast_dtype()  # type: ignore[no-any-return]
        return torch.bfloat16 if self._engine.bfloat16_enabled() else torch.float32

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """Return the batch on the device, floating tensors in the engine's dtype; pinned ones without waiting."""

        def moved(tensor: Tensor) -> Tensor:
            # Copied first, then converted: both at once would convert on the host, into memory that is not pinned.
            copied = tensor.to(self._engine.device, non_blocking=True)
            return copied.to(self.dtype) if copied.is_floating_point() else copied

        return {name: map_tensors(moved, entry) for name, entry in batch.items()}

    def activate(self, modules: Sequence[str]) -> None:
        """Train these modules in the next steps, and freeze all others, including moments and running statistics.

        Called on all ranks, between optimizer steps.
        """
        # Both are needed: without the toggle, clipping counts inactive gradients; without the optimizer's part,
        # ZeRO passes zero or stale gradients to it.
        if set(modules) != self._active:
            for module, parameters in self._parameters.items():
                for parameter in parameters:
                    parameter.requires_grad_(module in modules)
            self._active = set(modules)
        # Not only on a change: loading replaces the optimizer's groups.
        optimizer.activate(self.base_optimizer, modules)

    def step(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """Take one optimizer step.

        Args:
            batches: ``accumulation`` micro-batches, each with the teacher's outputs on it.
            plan: What is computed and trained.

        Returns:
            This rank's loss and unweighted terms, scalars, averaged over the micro-batches.
        """
        self.schedule.apply(self.base_optimizer)
        loss, terms = self._step(batches, plan)
        self.schedule.advance(plan.trained)
        return loss, terms

    def rehearse(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        """Do all the work of a step without any effect: weights, moments, buffers and counters stay the same."""
        counters = {name: getattr(self._engine, name) for name in _COUNTERS}
        # Normalisation layers keep statistics in buffers.
        buffers = [(buffer, buffer.clone()) for buffer in self._engine.module.buffers()]
        self.base_optimizer.rehearsing = True
        try:
            return self._step(batches, plan)
        finally:
            self.base_optimizer.rehearsing = False
            for buffer, copy in buffers:
                buffer.copy_(copy)
            for name, value in counters.items():
                setattr(self._engine, name, value)

    def synchronize(self) -> None:
        """Wait until the device has finished its queued work, so that it can be timed."""
        get_accelerator().synchronize()

    def has_room(self, size: int) -> bool:
        """Return whether the device had this many bytes free at its peak so far."""
        accelerator = get_accelerator()
        return size == 0 or size <= accelerator.total_memory() - accelerator.max_memory_allocated()

    def _step(self, batches: Sequence[tuple[Batch, Outputs]], plan: Plan) -> tuple[Tensor, dict[str, Tensor]]:
        self._train(True)
        self._statistics.activate(self._active)
        losses, terms = [], []
        for batch, teacher in batches:
            with all_ranks_together():
                loss, computed, _ = self._engine(batch, teacher, plan)
            if not loss.requires_grad:
                raise RecipeError(
                    f"the loss of {', '.join(plan.trained)} does not depend on its parameters: the model's forward "
                    "pass computes it without a graph (torch.no_grad, detach); leave it out of `arms`"
                )
            with self._averaging():
                self._engine.backward(loss)
            self._engine.step()
            losses.append(loss.detach())
            terms.append(computed)
        self._statistics.average()
        if len(losses) == 1:
            return losses[0], terms[0]
        mean = {name: torch.stack([t[name] for t in terms]).mean() for name in terms[0]}
        return torch.stack(losses).mean(), mean

    def _averages_plainly(self) -> bool:
        """Return whether DeepSpeed would average gradients as they are, by plain means, after the backward pass."""
        engine = self._engine
        shards = engine.zero_optimization() or engine.has_moe_layers or engine.dp_world_size != dist.get_world_size()
        half = engine.fp16_enabled() or engine.bfloat16_enabled()
        means = engine.gradient_average and engine.postscale_gradients() and engine.gradient_predivide_factor() == 1.0
        return bool(not shards and not half and means and engine.communication_data_type == torch.float32)

    @contextmanager
    def _averaging(self) -> Iterator[None]:
        """Average gradients during the backward pass within the block, where that is of use."""
        if self._averager is None:
            with self._without_averaging():
                yield
            return
        is_last = self._engine.is_gradient_accumulation_boundary()
        with self._engine.no_sync(), self._averager.averaging() if is_last else nullcontext():
            yield

    def _train(self, mode: bool) -> None:
        """Set train or eval mode, unless it is set already: walking all modules takes about a millisecond."""
        if self._engine.module.training != mode:
            self._engine.train(mode)

    @torch.no_grad()
    def measure(self, batch: Batch, teacher: Outputs, plan: Plan) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the plan's unweighted terms, scalars, on one batch in eval mode, and its logits if it has any."""
        self._train(False)
        with all_ranks_together():
            _, terms, outputs = self._engine(batch, teacher, plan)
        return terms, outputs.logits

    @torch.no_grad()
    def run(self, batch: Batch, plan: Plan, known: Mapping[str, Boundary]) -> Outputs:
        """Run the plan's modules on one batch in eval mode and return their outputs.

        Args:
            batch: The student's inputs.
            plan: A plan without a teacher.
            known: The student's boundary tensors of modules that the plan does not run.
        """
        self._train(False)
        outputs: Outputs = self._engine(batch, Outputs({}, {}), plan, known)[2]
        return outputs

    def save(self, directory: Path, loop: Mapping[str, Any]) -> list[Path]:
        """Write weights, optimizer, schedule and the loop's state; collective.

        Args:
            directory: Where to write; created if it does not exist. Every rank must see the same one.
            loop: Plain values and tensors, the same on every rank.

        Returns:
            The files that this rank wrote, flushed to the disk.
        """
        self._files.written = []
        state = {"loop": dict(loop), "schedule": self.schedule.state()}
        self._engine.save_checkpoint(str(directory.parent), tag=directory.name, client_state=state, save_latest=False)
        return self._files.written

    def load(self, directory: Path) -> dict[str, Any]:
        """Load what `save` wrote and return the loop's state; collective, before the first forward pass."""
        _, state = self._engine.load_checkpoint(str(directory.parent), tag=directory.name)
        self.schedule.restore(state["schedule"])
        return dict(state["loop"])

    def masters(self, modules: Sequence[str]) -> list[Tensor]:
        """Return this rank's tensors that the optimizer updates for these modules; they are the keys of its state."""
        outer, groups = self._engine.optimizer, self.base_optimizer.param_groups
        if hasattr(outer, "fp32_partitioned_groups_flat"):
            # Under ZeRO 3 the groups are empty except during its step.
            owner = {i: groups[group]["module"] for i, group in outer.sub_group_to_group_id.items()}
            return [tensor for i, tensor in enumerate(outer.fp32_partitioned_groups_flat) if owner[i] in modules]
        return [tensor for group in groups if group["module"] in modules for tensor in group["params"]]

    def mutable_tensors(self, modules: Sequence[str]) -> list[Tensor]:
        """Return this rank's weights, masters and buffers that a step of these modules may change."""
        weights = [getattr(p, "ds_tensor", p) for module in modules for p in self._parameters[module]]
        tensors = [*weights, *self.masters(modules), *self._engine.module.buffers()]
        return list({id(tensor): tensor for tensor in tensors}.values())

    @contextmanager
    def overwriting(self) -> Iterator[None]:
        """Allow `mutable_tensors` to be overwritten within the block; collective."""
        # DeepSpeed's own hooks around loading: ZeRO 3 releases what it has gathered, and gathers it again afterwards.
        getattr(self._engine.optimizer, "checkpoint_event_prologue", lambda: None)()
        yield
        getattr(self._engine.optimizer, "checkpoint_event_epilogue", lambda: None)()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the student's whole weights by plain name, on the CPU; nothing on ranks other than 0. Collective."""
        model = self._engine.module.model
        # Tied ones under each of their names: what loads the student expects all of them.
        named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
        persistent = set(model.state_dict().keys())
        # ZeRO 3 does not shard small parameters. Gathering those too would end with sharding them, and the next forward
        # pass would need parameters that are not in its trace.
        sharded = [p for p in model.parameters() if getattr(p, "ds_status", WHOLE) != WHOLE]
        with deepspeed.zero.GatheredParameters(sharded, modifier_rank=None):
            if dist.get_rank() != 0:
                return {}
            copies = {id(tensor): _to_cpu(tensor) for name, tensor in named if name in persistent}
            return {name: self._exact(name, copies[id(tensor)]) for name, tensor in named if name in persistent}

    def _exact(self, name: str, value: Tensor) -> Tensor:
        """Return a tensor in its own shape, and as it was before the engine rounded it if it has not moved since."""
        original = self._unrounded.get(name)
        same = original is not None and torch.equal(original.to(torch.bfloat16).float(), value)
        exact = original if original is not None and same else value
        return exact.view(()) if name in self._scalars else exact


def _computes_in_bf16(config: Mapping[str, Any]) -> bool:
    """Return whether DeepSpeed will convert the student to bf16."""
    return any(config.get(name, {}).get("enabled", False) for name in ("bf16", "bfloat16"))


def _unrounded(model: torch.nn.Module, fixed: Collection[int]) -> dict[str, Tensor]:
    """Return copies of what never moves and bf16 cannot hold, by name: it is exported as it came. On rank 0 only."""
    if dist.get_rank() != 0:
        return {}
    tensors = model.state_dict(keep_vars=True)
    return lossy({name: tensor for name, tensor in tensors.items() if id(tensor) in fixed}, torch.bfloat16)


def _register_external_parameters(student: Student) -> None:
    """Tell ZeRO 3 which parameters are read by another module than their own.

    Otherwise it finds out during the first step; the second step then needs more than its trace says, and fails.
    """
    # Parameters of the model itself, outside its towers (a logit scale), are read by the wrapper. So are those around
    # units: the forward that reads them may end early, and then nothing else would gather them for the backward pass.
    for module in {student.model: None} | dict.fromkeys(student.enclosing):
        for parameter in module.parameters(recurse=False):
            deepspeed.zero.register_external_parameter(student, parameter)
    for module in student.modules():
        if isinstance(module, torch.nn.MultiheadAttention):
            for parameter in module.out_proj.parameters():
                deepspeed.zero.register_external_parameter(module, parameter)


def _to_cpu(tensor: Tensor) -> Tensor:
    copy = tensor.detach().cpu().clone()
    return copy.float() if copy.is_floating_point() else copy
