"""What server_load.py's numbers must be, and how they are printed."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Bar(NamedTuple):
    """One promise: `value` is at most `limit`, or at least if `at_least`."""

    what: str
    value: float
    limit: float
    at_least: bool
    met: bool


def at_most(what: str, value: float, limit: float) -> Bar:
    """A bar for what should be small."""
    return Bar(what, value, limit, False, value <= limit)


def at_least(what: str, value: float, limit: float) -> Bar:
    """A bar for what should be large."""
    return Bar(what, value, limit, True, value >= limit)


def ratio(of: Mapping[str, Any], to: Mapping[str, Any], what: str) -> float:
    """The median over turns that followed each other of one kind's number divided by the other's."""
    return statistics.median(a / b for a, b in zip(of["turns"][what], to["turns"][what], strict=True))


def bars(found: Mapping[str, Any]) -> list[Bar]:
    """Every bar, judged."""
    judged = []
    for clients, kinds in found["clients"].items():
        ours, bare = kinds["ours"], kinds["bare"]
        judged += [
            at_most(f"{clients} clients: p50, times that of the bare pair", ratio(ours, bare, "p50_ms"), 1.25),
            at_least(
                f"{clients} clients: throughput, times that of the bare pair", ratio(ours, bare, "per_second"), 0.8
            ),
        ]
        beside = f"the bare pair: {ratio(bare, kinds['optuna'], 'per_second'):.1f}"
        if "optuna_random" in kinds:
            beside += f"; with its random sampler ours: {ratio(ours, kinds['optuna_random'], 'per_second'):.1f}"
        what = f"{clients} clients: throughput, times Optuna's ({beside})"
        judged.append(at_least(what, ratio(ours, kinds["optuna"], "per_second"), 8.0))
    history, cold, memory = found["history"], found["cold_start"], found["memory"]
    judged += [
        # Of all calls: a turn has too few for a p99 of its own.
        at_most(
            "100,000 events: p99, times that of a fresh run",
            history["long"]["p99_ms"] / history["fresh"]["p99_ms"],
            1.2,
        ),
        at_most("cold start: seconds to the first select", cold["select_seconds"], 1.0),
        at_most("cold start: seconds to list all runs", cold["list_seconds"], 1.0),
        at_most("kilobytes of memory for an idle run", memory["kb_per_idle_run"], 20.0),
    ]
    return judged


def table(found: Mapping[str, Any], judged: Sequence[Bar]) -> str:
    """All that is worth a look."""
    lines = [f"{'':24} {'p50 ms':>9} {'p99 ms':>9} {'calls/s':>9} {'server µs':>9}"]
    for clients, kinds in found["clients"].items():
        lines += [_line(f"{clients} clients: {kind}", told) for kind, told in kinds.items()]
    lines += [_line(f"{count} replicas, 64 clients", told) for count, told in found["replicas"].items()]
    lines.append(_line("1,000 runs, 64 clients", found["runs_at_once"]))
    lines += [_line(f"{which} history, 1 client", told) for which, told in found["history"].items()]
    lines += [_line(f"8 clients: {what}", told) for what, told in found["stacks"].items()]
    lines += ["", "empty: calls; else: pairs of select and report, or ask and tell", ""]
    for bar in judged:
        sign = "≥" if bar.at_least else "≤"
        lines.append(f"{'ok    ' if bar.met else 'MISSED'} {bar.what}: {bar.value:.2f} ({sign} {bar.limit:g})")
    return "\n".join(lines)


def _line(name: str, told: Mapping[str, Any]) -> str:
    return (
        f"{name:24} {told['p50_ms']:9.2f} {told['p99_ms']:9.2f} {told['per_second']:9.0f} {told['server_cpu_us']:9.0f}"
    )
