"""Conclusions from measured steps: ratios, the thresholds they are compared with, and the tables that show both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

JOINT = "joint"
Key = tuple[str, str]
"""Variant and arm."""
LABELS = {
    ("bare", JOINT): "(a) by hand, DeepSpeed",
    ("pytorch", JOINT): "(a′) by hand, PyTorch",
    ("worker", JOINT): "(b) the worker",
    ("torchdistill", JOINT): "(c) torchdistill",
}
BY_HAND, ARM_BY_HAND, PEER, PROPORTION, MEMORY = 1.05, 1.10, 1.0, 1.4, 1.05
"""The highest ratios allowed: joint and an arm to the loop by hand; joint to torchdistill; an arm's share of joint's
time to its share of joint's operations (1.25 for the loop by hand with the small model's image tower, whose matrix
products are small); peak memory to that of the loop by hand."""
SHARE, START = 0.05, 15.0
"""The highest allowed: share of bandit and probe in a run; seconds from the launch to the first step, without those of
loading the models."""


@dataclass(frozen=True)
class Threshold:
    """A figure and its limit.

    Attributes:
        what: What is measured.
        figure: The measurement.
        limit: The highest value allowed.
    """

    what: str
    figure: float
    limit: float

    @property
    def met(self) -> bool:
        """Whether the figure is within the limit."""
        return self.figure <= self.limit

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.figure:7.3f} of at most {self.limit:g}: {self.what}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median ratio over turns: in each turn both variants ran within moments of each other."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))


def by_key(job: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """Return a job's variants by name and arm."""
    return {(variant["name"], variant["arm"]): variant for variant in job["variants"]}


def title(job: Mapping[str, Any]) -> str:
    """Return the job's size and ranks in words."""
    return f"{job['size']}, {job['ranks']} rank{'s' if job['ranks'] > 1 else ''}"


def of_job(job: Mapping[str, Any]) -> Iterator[Threshold]:
    """Yield the thresholds of a job's steps."""
    variants, where = by_key(job), title(job)
    joint, by_hand, peer = (variants[name, JOINT] for name in ("worker", "bare", "torchdistill"))
    yield Threshold(f"{where}: joint × the loop by hand", ratio(joint["seconds"], by_hand["seconds"]), BY_HAND)
    yield Threshold(f"{where}: joint × torchdistill", ratio(joint["seconds"], peer["seconds"]), PEER)
    yield Threshold(
        f"{where}: joint's peak memory × the loop by hand's", joint["peak_bytes"] / by_hand["peak_bytes"], MEMORY
    )
    for (name, arm), variant in variants.items():
        if name == "worker" and arm != JOINT:
            alone = ratio(variant["seconds"], variants["bare", arm]["seconds"])
            yield Threshold(f"{where}: arm {arm} × its loop by hand", alone, ARM_BY_HAND)
            time, work = ratio(variant["seconds"], joint["seconds"]), variant["flops"] / joint["flops"]
            yield Threshold(
                f"{where}: arm {arm}, share of joint's time × its share of operations", time / work, PROPORTION
            )


def of_alone(alone: Mapping[str, Any]) -> Iterator[Threshold]:
    """Yield the thresholds of processes that run one variant only."""
    figure = alone["resident_bytes"]["worker"] / alone["resident_bytes"]["bare"]
    yield Threshold(f"{title(alone)}: the process's peak memory × the loop by hand's", figure, MEMORY)


def of_run(run: Mapping[str, Any]) -> Iterator[Threshold]:
    """Yield the thresholds of the run with a bandit server."""
    yield Threshold("a run: share of bandit and probe", shares(run)["bandit and probe"], SHARE)
    start = run["start_seconds"] - run["load_seconds"]
    yield Threshold("a run: seconds from launch to first step, less the loading of models", start, START)


def thresholds(results: Mapping[str, Any]) -> list[Threshold]:
    """Return all thresholds."""
    of_jobs = [threshold for job in results["jobs"] for threshold in of_job(job)]
    of_processes = [threshold for alone in results["alone"] for threshold in of_alone(alone)]
    return [*of_jobs, *of_processes, *of_run(results["run"])]


def shares(run: Mapping[str, Any]) -> dict[str, float]:
    """Return the shares of a run's time.

    All that is neither training nor measuring counts as the bandit's: selecting, reporting, the copy for a rollback,
    and the record of the round.
    """
    whole, probe, evaluate = run["seconds"], run["probe_seconds"], run["evaluate_seconds"]
    rest = whole - run["train_seconds"] - probe - evaluate
    return {
        "training": run["train_seconds"] / whole,
        "bandit": rest / whole,
        "probe": probe / whole,
        "bandit and probe": (rest + probe) / whole,
        "evaluation": evaluate / whole,
    }


def table(job: Mapping[str, Any]) -> str:
    """Return a job's results as a table."""
    variants = by_key(job)
    joint = variants["worker", JOINT]
    lines = [
        f"{title(job)}: teacher {job['teacher_parameters'] / 1e6:.1f} M, student "
        f"{job['student_parameters'] / 1e6:.1f} M parameters, on {job['device']}; "
        f"{len(joint['seconds'])} turns of {job['steps_in_a_turn']} steps, {job['clock']} time",
        f"  {'':30}{'ms/step':>9}{'× by hand':>11}{'× (b)':>8}{'GFLOP':>9}{'share':>8}{'peak MB':>9}",
    ]
    for (name, arm), variant in sorted(variants.items(), key=lambda item: (item[0][1] != JOINT, item[0][1])):
        label = LABELS.get(
            (name, arm), f"{'(b)' if name == 'worker' else '(b′)'} {arm}{'' if name == 'worker' else ' by hand'}"
        )
        seconds = variant["seconds"]
        lines.append(
            f"  {label:30}{1000 * median(seconds):9.1f}{ratio(seconds, variants['bare', arm]['seconds']):11.3f}"
            f"{ratio(seconds, joint['seconds']):8.3f}{variant['flops'] / 1e9:9.2f}"
            f"{variant['flops'] / joint['flops']:8.3f}{variant['peak_bytes'] / 1e6:9.1f}"
        )
    lines.append(f"  copy for the rollback of a joint round: {job['copied_bytes'] / 1e6:.1f} MB")
    return "\n".join(lines)


def report(results: Mapping[str, Any]) -> str:
    """Return all results as text."""
    run = results["run"]
    parts = [table(job) for job in results["jobs"]]
    parts += [
        f"{title(alone)}, each in a process of its own: the worker {alone['resident_bytes']['worker'] / 1e6:.0f} MB, "
        f"by hand {alone['resident_bytes']['bare'] / 1e6:.0f} MB at the most"
        for alone in results["alone"]
    ]
    parts.append(
        f"a run of {run['rounds']} rounds of {run['steps_per_round']} steps against a bandit server, "
        f"{run['start_seconds']:.1f} s after its launch ({run['load_seconds']:.1f} s of them loading models): "
        + ", ".join(f"{name} {share:.1%}" for name, share in shares(run).items())
    )
    parts.append("\n".join(map(str, thresholds(results))))
    return "\n\n".join(parts)
