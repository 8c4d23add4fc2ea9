"""The thresholds of `python -m benchmarks.server`, and its table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Threshold(NamedTuple):
    """A measured value and its limit.

    Attributes:
        what: The name of the value.
        value: The value.
        limit: The limit.
        at_least: Whether the limit is a minimum; else it is a maximum.
        met: Whether the value is within its limit.
    """

    what: str
    value: float
    limit: float
    at_least: bool
    met: bool


def at_most(what: str, value: float, limit: float) -> Threshold:
    """Return a threshold for a value that should be small."""
    return Threshold(what, value, limit, False, value <= limit)


def at_least(what: str, value: float, limit: float) -> Threshold:
    """Return a threshold for a value that should be large."""
    return Threshold(what, value, limit, True, value >= limit)


def ratio(kind: Mapping[str, Any], other: Mapping[str, Any], what: str) -> float:
    """Return the median over neighbouring turns of one kind's value divided by the other's."""
    ratios: list[float] = [a / b for a, b in zip(kind["turns"][what], other["turns"][what], strict=True)]
    return statistics.median(ratios)


def check_thresholds(results: Mapping[str, Any]) -> list[Threshold]:
    """Compare the results with every threshold."""
    thresholds = []
    for clients, kinds in results["clients"].items():
        ours, bare = kinds["ours"], kinds["bare"]
        thresholds += [
            at_most(f"{clients} clients: p50, times that of the bare pair", ratio(ours, bare, "p50_ms"), 1.25),
            at_least(
                f"{clients} clients: throughput, times that of the bare pair", ratio(ours, bare, "per_second"), 0.8
            ),
        ]
        context = f"the bare pair: {ratio(bare, kinds['optuna'], 'per_second'):.1f}"
        if "optuna_random" in kinds:
            context += f"; with its random sampler ours: {ratio(ours, kinds['optuna_random'], 'per_second'):.1f}"
        what = f"{clients} clients: throughput, times Optuna's ({context})"
        thresholds.append(at_least(what, ratio(ours, kinds["optuna"], "per_second"), 8.0))
    history, cold, memory = results["history"], results["cold_start"], results["memory"]
    thresholds += [
        # The p99 of all calls: a turn has too few for a p99 of its own.
        at_most(
            "100,000 events: p99, times that of a new run",
            history["long"]["p99_ms"] / history["fresh"]["p99_ms"],
            1.2,
        ),
        at_most("cold start: seconds to the first select", cold["select_seconds"], 1.0),
        at_most("cold start: seconds to list all runs", cold["list_seconds"], 1.0),
        at_most("kilobytes of memory for an idle run", memory["kb_per_idle_run"], 20.0),
    ]
    return thresholds


def table(results: Mapping[str, Any], thresholds: Sequence[Threshold]) -> str:
    """Return the results and thresholds as text."""
    lines = [f"{'':24} {'p50 ms':>9} {'p99 ms':>9} {'calls/s':>9} {'server µs':>9}"]
    for clients, kinds in results["clients"].items():
        lines += [_line(f"{clients} clients: {kind}", row) for kind, row in kinds.items()]
    lines += [_line(f"{count} replicas, 64 clients", row) for count, row in results["replicas"].items()]
    lines.append(_line("1,000 runs, 64 clients", results["runs_at_once"]))
    lines += [_line(f"{which} history, 1 client", row) for which, row in results["history"].items()]
    lines += [_line(f"8 clients: {what}", row) for what, row in results["stacks"].items()]
    lines += ["", "empty: calls; else: pairs of select and report, or ask and tell", ""]
    for threshold in thresholds:
        sign = "≥" if threshold.at_least else "≤"
        status = "ok    " if threshold.met else "MISSED"
        lines.append(f"{status} {threshold.what}: {threshold.value:.2f} ({sign} {threshold.limit:g})")
    return "\n".join(lines)


def _line(name: str, row: Mapping[str, Any]) -> str:
    return f"{name:24} {row['p50_ms']:9.2f} {row['p99_ms']:9.2f} {row['per_second']:9.0f} {row['server_cpu_us']:9.0f}"
