"""One rank of what `benchmarks.step_time` measures; DeepSpeed's launcher starts it:

    deepspeed benchmarks/step_job.py RECIPE.yaml --json FILE [--seconds N] [--only VARIANT]

All variants are built from the same weights, see the same batches, and must have the same loss before anything is
timed. Then they take turns, a few steps each, forwards and backwards in order, so that what else the machine does
meanwhile falls on all alike.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[0] = str(Path.cwd())

import torch  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from benchmarks import step_loops  # noqa: E402
from benchmarks.step_loops import CoCa, Distillation, Loop, Pairs  # noqa: E402
from worker import assemble, recipe  # noqa: E402
from worker.arms import JOINT  # noqa: E402
from worker.batches import fixed_batch  # noqa: E402
from worker.checkpoint import Checkpoints  # noqa: E402
from worker.data.base import Batch  # noqa: E402
from worker.engine import Ranks  # noqa: E402
from worker.loop_state import LoopState  # noqa: E402
from worker.probe import Probe  # noqa: E402
from worker.rig import assemble_rig  # noqa: E402
from worker.round_start import RoundStart  # noqa: E402
from worker.trainer import Trainer  # noqa: E402

BATCHES = 4
"""Different ones, made before: data cost nothing here, for nobody."""
WARM_UP = 2
"""Steps before any is timed."""
TURNS, FEWEST, LONGEST_TURN = 20, 6, 5
"""Turns of each variant, if there is time for as many, and the fewest; the most steps in a turn."""
SAME = 1e-4
"""Between the losses of two variants of one job, relative."""


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
        self.recipe = recipe.read(path, {})
        self.ranks = ranks
        # The teacher may have no checkpoint: then its weights are drawn.
        torch.manual_seed(self.recipe.seed)
        self.models = assemble.models(self.recipe)
        self.pairs: Pairs = {module: list(pairs) for module, pairs in self.models.pairs.items()}
        self.data = assemble.data(self.recipe, self.models)
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
        lr = self.recipe.optimizer.lr
        if name == "pytorch":
            made = step_loops.with_pytorch(loop, self.batches(), lr, self.ranks.device)
        else:
            made = step_loops.with_deepspeed(loop, self.batches(), lr, self.recipe.data.batch_size)
        return _variant(name, arm, made, student, teacher)

    def torchdistill(self) -> Variant:
        """The joint job in torchdistill."""
        from benchmarks.step_torchdistill import with_torchdistill

        student, teacher = self._pair()
        lr = self.recipe.optimizer.lr
        made = with_torchdistill(student, teacher, self.pairs, self.batches(), lr, self.ranks.device)
        return _variant("torchdistill", JOINT, made, student, teacher)

    def _pair(self) -> tuple[Any, Any]:
        """A student and a teacher without the worker's hooks."""
        student, teacher = self._bare if self._alone else copy.deepcopy(self._bare)
        for model in (student, teacher):
            for module in model.modules():
                module._forward_hooks.clear()
        # The contrastive term does not train it, and it is owned by no module.
        student.logit_scale.requires_grad_(False)
        return student, teacher.requires_grad_(False).to(self.ranks.device).eval()


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
        """Bytes in host memory that a joint round can be taken back with."""
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


def peak(variant: Variant, device: torch.device) -> int:
    """Bytes of tensors at the fullest moment of a step: what is there before it, and what comes on top."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in variant.held()}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        variant.run(1)
        return sum(held.values()) + torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        variant.run(1)
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return sum(held.values()) + max(itertools.accumulate(sizes, initial=0))


def resident() -> int:
    """The most memory that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def flops(variant: Variant) -> int:
    """Floating-point operations of a step: matrix products, convolutions, attention where torch counts it."""
    with FlopCounterMode(display=False) as counter:
        variant.run(1)
    return int(counter.get_total_flops())


def compare(variants: list[Variant]) -> None:
    """Raise SystemExit unless all variants of a job begin with one loss."""
    ours = {variant.arm: variant.first for variant in variants if variant.name == "worker"}
    for variant in variants:
        if abs(variant.first - ours[variant.arm]) > SAME * abs(ours[variant.arm]):
            sys.exit(
                f"{variant.name} does not do what the worker does for {variant.arm}: its first loss is "
                f"{variant.first}, not {ours[variant.arm]}"
            )


def take_turns(variants: list[Variant], ranks: Ranks, seconds: float) -> tuple[int, list[list[float]]]:
    """Steps in a turn, and of each variant the seconds of a step, turn by turn."""

    def turn(variant: Variant, steps: int) -> float:
        ranks.wait()
        started = time.perf_counter()
        variant.run(steps)
        return (time.perf_counter() - started) / steps

    for variant in variants:
        turn(variant, WARM_UP)
    once = sum(turn(variant, 1) for variant in variants)
    # The same on every rank.
    steps, turns = ranks.broadcast(_divided(seconds, once))
    times: list[list[float]] = [[] for _ in variants]
    for number in range(turns):
        order = range(len(variants))
        for index in order if number % 2 else reversed(order):
            times[index].append(turn(variants[index], steps))
    return steps, times


def _divided(seconds: float, once: float) -> tuple[int, int]:
    """Steps in a turn, and turns, when every variant takes one step in `once` seconds."""
    steps = max(1, min(LONGEST_TURN, round(seconds / (once * TURNS))))
    return steps, max(FEWEST, round(seconds / (once * steps)))


def measure(makers: Makers, directory: Path, seconds: float) -> dict[str, Any]:
    """All variants, side by side."""
    worker = Worker(makers, directory)
    variants = [*worker.variants(), makers.bare("bare", JOINT), makers.bare("pytorch", JOINT), makers.torchdistill()]
    variants += [makers.bare("bare", arm) for arm in makers.pairs]
    compare(variants)
    steps, times = take_turns(variants, makers.ranks, seconds)
    return {
        "steps_in_a_turn": steps,
        "copied_bytes": worker.copied(),
        "variants": [
            {
                "name": variant.name,
                "arm": variant.arm,
                "flops": flops(variant),
                "peak_bytes": peak(variant, makers.ranks.device),
                "seconds": mine,
            }
            for variant, mine in zip(variants, times, strict=True)
        ],
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--only", choices=("worker", "bare"))
    parser.add_argument("--local_rank", type=int)
    asked = parser.parse_args()
    ranks = Ranks()
    makers = Makers(asked.recipe, ranks, alone=asked.only is not None)
    told: dict[str, Any] = {"device": ranks.device_kind, "ranks": ranks.world}
    both = (makers.models.teacher.model, makers.models.student.model)
    told["teacher_parameters"], told["student_parameters"] = (sum(p.numel() for p in m.parameters()) for m in both)
    with tempfile.TemporaryDirectory() as directory:
        if asked.only is None:
            told |= measure(makers, Path(directory), asked.seconds)
        else:
            only = (
                Worker(makers, Path(directory)).variants()[0] if asked.only == "worker" else makers.bare("bare", JOINT)
            )
            only.run(WARM_UP)
            told["resident_bytes"] = resident()
    if ranks.rank == 0:
        asked.json.write_text(json.dumps(told), encoding="utf-8")
    ranks.close()


if __name__ == "__main__":
    main()
