"""The dry step: proves for every arm, on real batches and through the engine, that it will train what it says.

Nothing moves: weights, moments, buffers, counters and random states are afterwards what they were before. Runs before
round 0 of every job, and by itself with ``--dry-run`` (worker/setup/dry_run_report.py prints it).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from worker.data.base import Batch
from worker.distill.arms import JOINT
from worker.distill.modular import Outputs
from worker.distill.plan import Plan, Planner
from worker.distill.student import Student
from worker.distill.teacher import Teacher
from worker.engine.engine import Engine
from worker.engine.process_group import Ranks
from worker.errors import RecipeError
from worker.setup.models import Models


@dataclass(frozen=True)
class Layer:
    """One pair of layers that an arm compares.

    Attributes:
        student: The student's layer; [B, …, width] in ``student_shape``.
        teacher: The teacher's.
        reached: How many of the parameter tensors within the student's layer get a gradient.
        parameters: How many of them the arm trains.
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
class Proven:
    """What was seen of one arm.

    Attributes:
        arm: Its name.
        plan: What its rounds train and compute.
        layers: The pairs it compares.
        silent: Names of its parameters that get no gradient.
        seconds: Seconds of an optimizer step, the fastest seen.
    """

    arm: str
    plan: Plan
    layers: tuple[Layer, ...]
    silent: tuple[str, ...]
    seconds: float


@dataclass
class Proof:
    """Plays dry steps; every method is collective.

    Attributes:
        batches: This rank's micro-batches of one optimizer step, on the device.
    """

    models: Models
    ranks: Ranks
    engine: Engine
    student: Student
    teacher: Teacher
    planner: Planner
    batches: Sequence[Batch]
    _seen: list[tuple[Outputs, Outputs]] = field(default_factory=list, init=False)

    def arms(self, repeats: int) -> list[Proven]:
        """Every arm, and joint.

        Args:
            repeats: Further steps of each to time; 0 leaves the time of the first, which has start-up in it.

        Raises:
            RecipeError: An arm would not train what it says.
        """
        arms = {**self.models.arms, JOINT: list(self.planner.modules)}
        with _random_state(self.ranks.device):
            return [self.arm(arm, modules, repeats) for arm, modules in arms.items()]

    def arm(self, arm: str, modules: Sequence[str], repeats: int) -> Proven:
        """One arm."""
        plan = self.planner.joint() if arm == JOINT else self.planner.arm(modules)
        self.engine.activate(plan.trained)
        names = [name for module in plan.trained for name in self.models.ownership.owned[module]]
        with self._gradients(names) as reached, self._observing(arm):
            seconds = [self._step(plan)]
        # None at all is -1: a gradient of 0 is one, as for a layer that still equals the teacher's.
        nothing = torch.full((), -1.0)
        flags = torch.stack([reached.get(name, nothing).double().cpu() for name in names])
        got = dict(zip(names, self.ranks.gather(flags).amax(0).tolist(), strict=True))
        seconds += [self._step(plan) for _ in range(repeats)]
        layers = tuple(self._layers(plan, got))
        self._check(arm, plan, layers, got)
        self._seen.clear()
        return Proven(arm, plan, layers, tuple(name for name in names if got[name] < 0), min(seconds[1:] or seconds))

    def _step(self, plan: Plan) -> float:
        """Seconds of one dry step, the teacher's part included."""
        self.engine.synchronize()
        started = time.perf_counter()
        work = [(batch, self.teacher.run(plan.teacher, batch)) for batch in self.batches]
        self.engine.rehearse(work, plan)
        self.engine.synchronize()
        return time.perf_counter() - started

    def _layers(self, plan: Plan, got: Mapping[str, float]) -> Iterator[Layer]:
        student, teacher = self._seen[0]
        for module in plan.layers:
            for ours, theirs in self.models.pairs[module]:
                inside = [name for name in got if name.startswith(f"{ours}.")]
                yield Layer(
                    student=ours,
                    student_shape=tuple(student.hidden[ours].shape),
                    teacher=theirs,
                    teacher_shape=tuple(teacher.hidden[theirs].shape),
                    reached=sum(not got[name] < 0 for name in inside),
                    parameters=len(inside),
                    gradient=max((got[name] for name in inside), default=0.0),
                )

    def _check(self, arm: str, plan: Plan, layers: Sequence[Layer], got: Mapping[str, float]) -> None:
        student, _ = self._seen[0]
        for layer in layers:
            cut = layer.parameters and not student.hidden[layer.student].requires_grad
            if cut or (layer.parameters and not layer.reached):
                why = (
                    "its output was computed without a graph. Reentrant activation checkpointing does that, and is "
                    "refused: use the non-reentrant kind (student.checkpointing: non_reentrant)"
                    if cut
                    else f"all {layer.parameters} of its parameter tensors have none"
                )
                raise RecipeError(f"arm {arm}: no gradient reaches the student's layer {layer.student}: {why}")
        for module in plan.trained:
            owned = self.models.ownership.owned[module]
            if owned and all(got[name] < 0 for name in owned):
                raise RecipeError(
                    f"arm {arm}: no gradient reaches any parameter of {module}; check the weights under `loss`"
                )

    @contextmanager
    def _observing(self, arm: str) -> Iterator[None]:
        """Keep what student and teacher put out in the first forward pass, once every hook has been seen to fire."""

        def look(plan: Plan, student: Outputs, teacher: Outputs) -> None:
            for module in plan.layers:
                for pair in self.models.pairs[module]:
                    for (_, who), layer, seen in zip(self.models.both, pair, (student, teacher), strict=True):
                        if layer not in seen.hidden:
                            raise RecipeError(
                                f"arm {arm}: the hook on the {who}'s {layer} did not fire although {module} was run "
                                f"(it fired on {', '.join(seen.hidden) or 'none'}): the model's adapter does not "
                                "call that layer when it runs this module alone"
                            )
            if not self._seen:
                self._seen.append((student, teacher))

        self.student.observer = look
        try:
            yield
        finally:
            self.student.observer = None

    @contextmanager
    def _gradients(self, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
        """Largest absolute gradient by parameter, for those that get one within the block."""
        largest: dict[str, Tensor] = {}

        def note(name: str) -> object:
            def keep(gradient: Tensor) -> None:
                value = gradient.detach().abs().amax()
                largest[name] = torch.maximum(largest[name], value) if name in largest else value

            return keep

        parameters = dict(self.student.model.named_parameters())
        hooks = [parameters[name].register_hook(note(name)) for name in names]  # type: ignore[no-untyped-call]
        try:
            yield largest
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _random_state(device: torch.device) -> Iterator[None]:
    """Leave torch's random states as they are found: a model may have dropout."""
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        yield
