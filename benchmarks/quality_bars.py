"""What the study was to show, recipe by recipe: where matching hidden states pays at all, how much sooner `optima` is
where joint distillation ends, and what the bandit is worth against playing in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any

from benchmarks.quality_interval import Interval
from benchmarks.quality_report import Found, costs_to_reach, difference, shown_loss, shown_points

SOONER, WORSE = 0.6, -0.5
"""Bars: the share of joint's cost at which `optima` has joint's final loss; points by which it may be worse."""
BUDGET = 24.0
HEAD = (
    "| recipe | seeds | matching hidden states: joint − task + logits, points | cost of optima to joint's final loss "
    "(at most 0.6) | optima − joint, points | optima − round robin, held-out loss |"
)


def bars(found: Found) -> str:
    """A row for each recipe, in Markdown, and how many meet each bar. Only runs of the usual budget count."""
    lines, met = [HEAD, "|---|---|---|---|---|---|"], {"sooner": 0, "points": 0, "bandit": 0}
    rows = list(_rows(found))
    for problem, seeds, layerwise, cost, points, bandit in rows:
        met["sooner"] += cost is not None and cost <= SOONER
        little = problem.endswith("/little")
        met["points"] += points.low > 0 if little else 100 * points.low > WORSE
        met["bandit"] += bandit.high < 0
        reached = "not always reached" if cost is None else f"{cost:.2f}"
        shown = [shown_points(layerwise) if layerwise else "–", reached, shown_points(points), shown_loss(bandit)]
        lines.append(f"| {problem} | {seeds} | {' | '.join(shown)} |")
    told = (
        f"joint's final loss at {SOONER} of its cost or less on {met['sooner']}; a better metric than joint's (with "
        f"plenty of data: not worse by {-WORSE} points) with an interval that says so on {met['points']}; a lower loss "
        f"than round robin's with an interval that says so on {met['bandit']}"
    )
    lines += ["", f"Of {len(rows)} recipes: {told}."]
    return "\n".join(lines) if rows else ""


def _rows(found: Found) -> Iterator[tuple[str, int, Interval | None, float | None, Interval, Interval]]:
    problems: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for cell, told in found.items():
        if cell.budget == BUDGET:
            problems.setdefault(cell.problem, {}).setdefault(cell.method, {})[cell.seed] = told
    for problem, runs in problems.items():
        if {"joint", "round robin", "optima"} <= runs.keys():
            seeds = sorted(set.intersection(*(set(runs[name]) for name in ("joint", "round robin", "optima"))))
            if seeds:
                yield _row(problem, seeds, runs)


def _row(
    problem: str, seeds: list[int], runs: dict[str, dict[int, Mapping[str, Any]]]
) -> tuple[str, int, Interval | None, float | None, Interval, Interval]:
    def less(ours: str, theirs: str, of: str) -> Interval:
        both = [seed for seed in seeds if seed in runs[theirs]]
        return difference([runs[ours][seed] for seed in both], [runs[theirs][seed] for seed in both], of)

    unmatched = "task + logits only"
    layerwise = less("joint", unmatched, "metric") if set(seeds) & set(runs.get(unmatched, {})) else None
    costs = costs_to_reach(runs["optima"], runs["joint"])
    there = [cost for cost in costs if cost is not None]
    cost = fmean(there) if len(there) == len(costs) else None
    return (
        problem, len(seeds), layerwise, cost, less("optima", "joint", "metric"), less("optima", "round robin", "loss"),
    )  # fmt: skip
