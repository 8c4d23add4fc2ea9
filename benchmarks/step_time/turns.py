"""The cost of a step of each variant: seconds, measured in turns; floating-point operations; memory.

All variants must have the same loss before anything is timed. Then they take turns of a few steps each, forwards and
backwards in order, so that other load on the machine affects all alike. With one rank on a CPU, which waits for no
other, processor time is measured, which other load hardly changes.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_time.variants import Variant, VariantFactory, Worker
from worker.distill.arms import JOINT
from worker.engine.process_group import ProcessGroup

WARM_UP = 1
"""Untimed steps of each variant, after the one that computes its first loss."""
TURNS, FEWEST, LONGEST_TURN = 20, 9, 5
"""Turns of each variant if time allows, the fewest turns, and the most steps in a turn."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Largest relative difference between the first losses of two variants, by dtype."""


def operations_and_memory(variant: Variant, device: torch.device) -> tuple[int, int]:
    """Take one step and return its floating-point operations and its peak memory.

    Counted are matrix products, convolutions, and attention where torch counts it. The memory is the bytes of all
    tensors at the peak: those that exist before the step, and those allocated during it.
    """
    storages = [tensor.untyped_storage() for tensor in variant.tensors()]
    before_step = sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
    counter = FlopCounterMode(display=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with counter:
            variant.run(1)
        during_step = torch.cuda.max_memory_allocated(device) - before
    else:
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile, counter:
            variant.run(1)
        events = profile.profiler.kineto_results.events()
        sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
        during_step = max(itertools.accumulate(sizes, initial=0))
    return int(counter.get_total_flops()), before_step + during_step


def peak_resident_bytes() -> int:
    """Return the peak resident memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def check_first_losses(variants: list[Variant], dtype: torch.dtype) -> None:
    """Raise SystemExit unless all variants of an arm have the same first loss."""
    expected = {variant.arm: variant.first_loss for variant in variants if variant.name == "worker"}
    for variant in variants:
        loss = expected[variant.arm]
        if abs(variant.first_loss - loss) > TOLERANCE[dtype] * abs(loss):
            sys.exit(
                f"{variant.name} and the worker compute different losses for {variant.arm}: {variant.first_loss} and "
                f"{loss} on the first batch"
            )


def take_turns(
    variants: list[Variant], process_group: ProcessGroup, seconds: float, clock: Callable[[], float]
) -> tuple[int, list[list[float]]]:
    """Return the steps in a turn and, for each variant, the seconds of a step in each turn; collective."""

    def turn(variant: Variant, steps: int) -> float:
        process_group.barrier()
        started = clock()
        variant.run(steps)
        return (clock() - started) / steps

    for variant in variants:
        turn(variant, WARM_UP)
    once = sum(turn(variant, 1) for variant in variants)
    # The same on every rank.
    steps, turns = process_group.broadcast(_steps_and_turns(seconds, once))
    times: list[list[float]] = [[] for _ in variants]
    for number in range(turns):
        order = range(len(variants))
        for index in order if number % 2 else reversed(order):
            times[index].append(turn(variants[index], steps))
    return steps, times


def _steps_and_turns(seconds: float, once: float) -> tuple[int, int]:
    """Return steps per turn and turns, if one step of every variant takes ``once`` seconds in all."""
    steps = max(1, min(LONGEST_TURN, round(seconds / (once * TURNS))))
    return steps, max(FEWEST, round(seconds / (once * steps)))


def measure_variants(factory: VariantFactory, seconds: float) -> dict[str, Any]:
    """Measure all variants, in about so many seconds, and return the results as JSON values."""
    worker = Worker(factory)
    variants = [
        *worker.variants(),
        factory.handwritten("bare", JOINT),
        factory.handwritten("pytorch", JOINT),
        factory.torchdistill(),
        *(factory.handwritten("bare", arm) for arm in factory.pairs),
    ]
    check_first_losses(variants, factory.dtype)
    device = factory.process_group.device
    waits_for_nobody = factory.process_group.world_size == 1 and device.type == "cpu"
    clock = time.process_time if waits_for_nobody else time.perf_counter
    steps, times = take_turns(variants, factory.process_group, seconds, clock)
    costs = [operations_and_memory(variant, device) for variant in variants]
    return {
        "clock": "processor" if waits_for_nobody else "wall",
        "steps_in_a_turn": steps,
        "copied_bytes": worker.rollback_bytes(),
        "variants": [
            {"name": variant.name, "arm": variant.arm, "flops": flops, "peak_bytes": peak, "seconds": seconds_of_turns}
            for variant, (flops, peak), seconds_of_turns in zip(variants, costs, times, strict=True)
        ],
    }
