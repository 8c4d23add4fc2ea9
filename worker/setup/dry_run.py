"""The dry run: checks on real batches, through the engine, that every arm trains what it should.

It changes nothing: weights, moments, buffers, counters and random states are the same afterwards. Every new job runs it
before round 0, and ``--dry-run`` runs it alone and prints `report`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from worker.data.base import Batch
from worker.distill.arms import JOINT
from worker.distill.modular import Outputs
from worker.distill.plan import Plan, Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import ProcessGroup
from worker.errors import RecipeError
from worker.setup.models import Models


@dataclass(frozen=True)
class LayerCheck:
    """One pair of layers that an arm compares.

    Attributes:
        student: The student's layer; its output is [B, …, width], as in ``student_shape``.
        teacher: The teacher's layer.
        reached: How many parameter tensors of the student's layer get a gradient.
        parameters: How many parameter tensors of it the arm trains.
        gradient: The largest absolute gradient among them; 0 where the layer still equals the teacher's.
    """

    student: str
    student_shape: tuple[int, ...]
    teacher: str
    teacher_shape: tuple[int, ...]
    reached: int
    parameters: int
    gradient: float


@dataclass(frozen=True)
class ArmCheck:
    """Results of the dry run for one arm.

    Attributes:
        arm: Its name.
        plan: What its rounds train and compute.
        layers: The pairs of layers it compares.
        silent: Names of its parameters that get no gradient.
        terms: Names of the terms of its loss.
        seconds: Seconds of an optimizer step, the fastest measured.
    """

    arm: str
    plan: Plan
    layers: tuple[LayerCheck, ...]
    silent: tuple[str, ...]
    terms: tuple[str, ...]
    seconds: float


@dataclass
class DryRun:
    """Takes dry steps; every method is collective.

    Attributes:
        batches: This rank's micro-batches of one optimizer step, on the device.
    """

    models: Models
    process_group: ProcessGroup
    engine: Engine
    student: Student
    teacher: Teacher
    planner: Planner
    batches: Sequence[Batch]
    _first_outputs: tuple[Outputs, Outputs] | None = field(default=None, init=False)
    _terms: tuple[str, ...] = field(default=(), init=False)

    def check_arms(self, repeats: int) -> list[ArmCheck]:
        """Check every arm, then joint.

        Args:
            repeats: Further steps of each arm to time; with 0 the time is that of the first step, which includes
                start-up work.

        Raises:
            RecipeError: An arm would not train what it should.
        """
        arms = {**self.models.arms, JOINT: list(self.planner.modules)}
        with _random_state(self.process_group.device):
            return [self._check_arm(arm, modules, repeats) for arm, modules in arms.items()]

    def _check_arm(self, arm: str, modules: Sequence[str], repeats: int) -> ArmCheck:
        plan = self.planner.joint() if arm == JOINT else self.planner.arm(modules)
        self.engine.activate(plan.trained)
        names = [name for module in plan.trained for name in self.models.ownership.owned[module]]
        try:
            with self._recorded_gradients(names) as recorded, self._recorded_outputs(arm):
                seconds = [self._step(plan)]
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise RecipeError(
                f"arm {arm}: a training step fails on the data's batches, which is run in train mode and with "
                f"gradients: {type(error).__name__}: {error}"
            ) from error
        # -1 stands for no gradient at all: 0 is a gradient, that of a layer which still equals the teacher's.
        missing = torch.full((), -1.0)
        largest = torch.stack([recorded.get(name, missing).double().cpu() for name in names])
        gradients = dict(zip(names, self.process_group.all_gather(largest).amax(0).tolist(), strict=True))
        seconds += [self._step(plan) for _ in range(repeats)]
        assert self._first_outputs is not None
        student, teacher = self._first_outputs
        self._first_outputs = None
        layers = tuple(self._layers(plan, gradients, student, teacher))
        self._require_gradients(arm, plan, layers, gradients, student)
        silent = tuple(name for name in names if gradients[name] < 0)
        return ArmCheck(arm, plan, layers, silent, self._terms, min(seconds[1:] or seconds))

    def _step(self, plan: Plan) -> float:
        """Take one dry step and return its seconds, including the teacher's."""
        self.engine.synchronize()
        started = time.perf_counter()
        pairs = [(batch, self.teacher.run(plan.teacher, batch)) for batch in self.batches]
        _, terms = self.engine.rehearse(pairs, plan)
        self._terms = tuple(terms)
        self.engine.synchronize()
        return time.perf_counter() - started

    def _layers(
        self, plan: Plan, gradients: Mapping[str, float], student: Outputs, teacher: Outputs
    ) -> Iterator[LayerCheck]:
        for module in plan.layers:
            for ours, theirs in self.models.pairs[module]:
                inside = [gradient for name, gradient in gradients.items() if name.startswith(f"{ours}.")]
                yield LayerCheck(
                    student=ours,
                    student_shape=tuple(student.hidden[ours].shape),
                    teacher=theirs,
                    teacher_shape=tuple(teacher.hidden[theirs].shape),
                    reached=sum(not gradient < 0 for gradient in inside),
                    parameters=len(inside),
                    gradient=max(inside, default=0.0),
                )

    def _require_gradients(
        self,
        arm: str,
        plan: Plan,
        layers: Sequence[LayerCheck],
        gradients: Mapping[str, float],
        student: Outputs,
    ) -> None:
        for layer in layers:
            no_graph = layer.parameters and not student.hidden[layer.student].requires_grad
            if no_graph or (layer.parameters and not layer.reached):
                why = (
                    "its output was computed without a graph. Reentrant activation checkpointing does that, and is "
                    "refused: use the non-reentrant kind (student.checkpointing: non_reentrant)"
                    if no_graph
                    else f"none of its {layer.parameters} parameter tensors has one"
                )
                raise RecipeError(f"arm {arm}: no gradient reaches the student's layer {layer.student}: {why}")
        for module in plan.trained:
            owned = self.models.ownership.owned[module]
            if owned and all(gradients[name] < 0 for name in owned):
                raise RecipeError(
                    f"arm {arm}: no gradient reaches any parameter of {module}; check the weights under `loss`"
                )

    @contextmanager
    def _recorded_outputs(self, arm: str) -> Iterator[None]:
        """Record the outputs of the first forward pass, and check in every pass that all hooks have fired."""

        def observe(plan: Plan, student: Outputs, teacher: Outputs) -> None:
            for module in plan.layers:
                for pair in self.models.pairs[module]:
                    for (_, role), layer, outputs in zip(self.models.both, pair, (student, teacher), strict=True):
                        if layer not in outputs.hidden:
                            raise RecipeError(
                                f"arm {arm}: the hook on the {role}'s {layer} did not fire although {module} was run "
                                f"(it fired on {', '.join(outputs.hidden) or 'none'}): the model's adapter does not "
                                "call that layer when it runs this module alone"
                            )
            self._first_outputs = self._first_outputs or (student, teacher)

        self.student.observer = observe
        try:
            yield
        finally:
            self.student.observer = None

    @contextmanager
    def _recorded_gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Record the largest absolute gradient of each of these parameters that gets one within the block."""
        largest: dict[str, Tensor] = {}

        def recorder(name: str) -> object:
            def record(gradient: Tensor) -> None:
                value = gradient.detach().abs().amax()
                largest[name] = torch.maximum(largest[name], value) if name in largest else value

            return record

        parameters = dict(self.student.model.named_parameters())
        hooks = [parameters[name].register_hook(recorder(name)) for name in names]  # type: ignore[no-untyped-call]
        try:
            yield largest
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Restore torch's random states after the block: a model may have dropout."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        yield


def report(models: Models, checks: Sequence[ArmCheck]) -> str:
    """Return what ``--dry-run`` prints: hooks, shapes, gradients, parameters and cost of each arm."""
    joint_seconds = next(check.seconds for check in checks if check.arm == JOINT)
    lines = [line for check in checks for line in _arm_lines(models, check, joint_seconds)]
    return "\n".join([*lines, *_other_lines(models)])


def _arm_lines(models: Models, check: ArmCheck, joint_seconds: float) -> Iterator[str]:
    plan = check.plan
    yield f"arm {check.arm}" + ("" if check.arm in models.arms else " (the tail; no arm of the recipe)")
    inputs = "the teacher's boundary tensors" if plan.forced else "the student's own inputs"
    yield f"  trains         {', '.join(plan.trained)}, on {inputs}"
    yield f"  computes       student: {', '.join(plan.student)}; teacher: {', '.join(plan.teacher)}"
    names = [name for module in plan.trained for name in models.ownership.owned[module]]
    yield f"  loss           {', '.join(check.terms)}"
    yield f"  owns           {_count(models.student.model, names):,} parameters in {len(names)} tensors"
    if check.silent:
        yield f"  no gradient    {len(check.silent)} of these tensors: {', '.join(check.silent)}"
    yield f"  hooks          all {len(check.layers)} pairs of layers fired; student's layer <- teacher's:"
    width = max((len(layer.student) for layer in check.layers), default=0)
    for layer in check.layers:
        projected = "" if layer.student_shape == layer.teacher_shape else ", projected"
        size = f"at most {layer.gradient:.1e}" if layer.gradient else "but is 0: nothing differs from the teacher"
        gradient = f"gradient reaches {layer.reached} of {layer.parameters} tensors, {size}"
        yield (
            f"    {layer.student:{width}}  {list(layer.student_shape)} <- {layer.teacher} {list(layer.teacher_shape)}"
            f"{projected}; {gradient if layer.parameters else 'nothing in it is trained'}"
        )
    yield f"  cost of a step {check.seconds:.4f} s, {check.seconds / joint_seconds:.0%} of joint"


def _other_lines(models: Models) -> Iterator[str]:
    ownership = models.ownership
    for name, others in ownership.tied.items():
        owner = next(module for module, names in ownership.owned.items() if name in names)
        yield f"{name} is shared: it moves with {owner}, listed before {', '.join(others)}"
    in_arms = {module for modules in models.arms.values() for module in modules}
    yield from models.left_out
    for module in ownership.owned:
        if module not in in_arms and not models.left_out:
            yield f"{module} is in no arm: only joint rounds train it"
    if ownership.frozen:
        frozen = f"{_count(models.student.model, ownership.frozen):,} parameters in {len(ownership.frozen)} tensors"
        yield f"{frozen} are frozen and stay as they are: {', '.join(ownership.frozen)}"
    count, names = _count(models.student.model, ownership.unowned), ", ".join(ownership.unowned)
    tensors = f"{count:,} parameters in {len(ownership.unowned)} tensors"
    yield f"{tensors} belong to no module and stay as they are{f': {names}' if names else ''}"


def _count(model: nn.Module, names: Sequence[str]) -> int:
    """Return the number of parameters in these tensors."""
    parameters = dict(model.named_parameters())
    # Under ZeRO 3 a parameter's own shape is empty; DeepSpeed keeps the number of the whole one beside it.
    return sum(int(getattr(parameters[name], "ds_numel", parameters[name].numel())) for name in names)
