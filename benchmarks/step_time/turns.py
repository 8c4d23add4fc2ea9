"""What a step of each variant takes: seconds, in turns; operations; memory.

The variants must have the same loss before anything is timed. Then they take turns, a few steps each, forwards and
backwards in order, so that what else the machine does meanwhile falls on all alike. One rank on a CPU waits for nobody:
there processor time is taken, which what else the machine does hardly changes.
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

from benchmarks.step_time.variants import Makers, Variant, Worker
from worker.distill.arms import JOINT
from worker.engine.process_group import Ranks

WARM_UP = 1
"""Steps before any is timed, after the first that tells its loss."""
TURNS, FEWEST, LONGEST_TURN = 20, 9, 5
"""Turns of each variant, if there is time for as many, and the fewest; the most steps in a turn."""
SAME = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
"""Between the losses of two variants of one job, relative, by what they compute in."""


def looked_at(variant: Variant, device: torch.device) -> tuple[int, int]:
    """Of one step: floating-point operations (matrix products, convolutions, attention where torch counts it), and
    bytes of tensors at its fullest moment: what is there before it, and what comes on top."""
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in variant.held()}
    counter = FlopCounterMode(display=False)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with counter:
            variant.run(1)
        top = torch.cuda.max_memory_allocated(device) - before
    else:
        cpu = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=cpu, profile_memory=True) as profile, counter:
            variant.run(1)
        events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        sizes = [event.nbytes() for event in events if event.name() == "[memory]"]
        top = max(itertools.accumulate(sizes, initial=0))
    return int(counter.get_total_flops()), sum(held.values()) + top


def resident() -> int:
    """The most memory that this process has had, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def compare(variants: list[Variant], dtype: torch.dtype) -> None:
    """Raise SystemExit unless all variants of a job begin with one loss."""
    ours = {variant.arm: variant.first for variant in variants if variant.name == "worker"}
    for variant in variants:
        if abs(variant.first - ours[variant.arm]) > SAME[dtype] * abs(ours[variant.arm]):
            sys.exit(
                f"{variant.name} does not do what the worker does for {variant.arm}: its first loss is "
                f"{variant.first}, not {ours[variant.arm]}"
            )


def take_turns(
    variants: list[Variant], ranks: Ranks, seconds: float, clock: Callable[[], float]
) -> tuple[int, list[list[float]]]:
    """Steps in a turn, and of each variant the seconds of a step, turn by turn."""

    def turn(variant: Variant, steps: int) -> float:
        ranks.wait()
        started = clock()
        variant.run(steps)
        return (clock() - started) / steps

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


def compared(makers: Makers, directory: Path, seconds: float) -> dict[str, Any]:
    """All variants, side by side."""
    worker = Worker(makers, directory)
    variants = [*worker.variants(), makers.bare("bare", JOINT), makers.bare("pytorch", JOINT), makers.torchdistill()]
    variants += [makers.bare("bare", arm) for arm in makers.pairs]
    compare(variants, makers.dtype)
    alone = makers.ranks.world == 1 and makers.ranks.device.type == "cpu"
    clock = time.process_time if alone else time.perf_counter
    steps, times = take_turns(variants, makers.ranks, seconds, clock)
    looks = [looked_at(variant, makers.ranks.device) for variant in variants]
    return {
        "clock": "processor" if alone else "wall",
        "steps_in_a_turn": steps,
        "copied_bytes": worker.copied(),
        "variants": [
            {"name": variant.name, "arm": variant.arm, "flops": flops, "peak_bytes": peak, "seconds": mine}
            for variant, (flops, peak), mine in zip(variants, looks, times, strict=True)
        ],
    }
