"""What the study was to show, recipe by recipe: where matching hidden states pays at all, how much sooner `optima` is
where joint distillation ends, and what the bandit is worth against playing in turn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import Any, NamedTuple

from benchmarks.quality.interval import Interval
from benchmarks.quality.report import Found, costs_to_reach, difference, shown_loss, shown_points

BUDGET, LESS, WORSE = 24.0, 14.4, -0.5
"""The usual budget; bars: that in which `optima` is to come to joint's final loss (0.6 of the usual), and the points by
which it may be worse with plenty of data."""
HEAD = (
    "recipe",
    "seeds",
    "matching hidden states: joint − task + logits, points",
    "optima with 0.6 of the budget − joint with all of it, held-out loss",
    "cost along one run to joint's final loss, at most",
    "optima − joint, points",
    "optima − round robin, held-out loss",
)

Runs = Mapping[int, Mapping[str, Any]]


class Row(NamedTuple):
    """What is known of one recipe; None where it was not run."""

    problem: str
    seeds: int
    layerwise: Interval | None
    sooner: Interval | None
    cost: float | None
    points: Interval | None
    bandit: Interval | None

    @property
    def told(self) -> str:
        """In Markdown."""
        losses = [shown_loss(found) if found else "–" for found in (self.sooner, self.bandit)]
        points = [shown_points(found) if found else "–" for found in (self.layerwise, self.points)]
        cost = "not always reached" if self.cost is None else f"{self.cost:.2f}"
        cells = (self.problem, str(self.seeds), points[0], losses[0], cost, points[1], losses[1])
        return f"| {' | '.join(cells)} |"

    @property
    def as_good(self) -> bool:
        """Whether the metric is as the bar has it: better with little data, no worse than that with plenty."""
        return self.points is not None and 100 * self.points.low > (0 if self.problem.endswith("/little") else WORSE)


def bars(found: Found) -> str:
    """A row for each recipe, in Markdown, and how many meet each bar; "" where joint and `optima` were not both run
    with the usual budget."""
    rows = list(_rows(found))
    if not rows:
        return ""
    sooner = sum(row.sooner is not None and row.sooner.mean <= 0 for row in rows)
    bandit = sum(row.bandit is not None and row.bandit.high < 0 for row in rows)
    told = (
        f"joint's final loss with 0.6 of its budget on {sooner}; a better metric than joint's (with plenty of data: "
        f"not worse by {-WORSE} points) with an interval that says so on {sum(row.as_good for row in rows)}; a lower "
        f"loss than round robin's with an interval that says so on {bandit}"
    )
    head = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*head, *(row.told for row in rows), "", f"Of {len(rows)} recipes: {told}."])


def _rows(found: Found) -> Iterator[Row]:
    problems: dict[str, dict[tuple[str, bool], dict[int, Mapping[str, Any]]]] = {}
    for cell, told in found.items():
        if cell.budget in {BUDGET, LESS}:
            runs = problems.setdefault(cell.problem, {})
            runs.setdefault((cell.method, cell.budget == BUDGET), {})[cell.seed] = told
    for problem, runs in problems.items():
        joint, ours = runs.get(("joint", True), {}), runs.get(("optima", True), {})
        costs = costs_to_reach(ours, joint)
        if costs:
            there = [cost for cost in costs if cost is not None]
            yield Row(
                problem,
                len(costs),
                _less(joint, runs.get(("task + logits only", True), {}), "metric"),
                _less(runs.get(("optima", False), {}), joint, "loss"),
                fmean(there) if len(there) == len(costs) else None,
                _less(ours, joint, "metric"),
                _less(ours, runs.get(("round robin", True), {}), "loss"),
            )


def _less(ours: Runs, theirs: Runs, of: str) -> Interval | None:
    """Over the seeds that both have."""
    both = sorted(ours.keys() & theirs.keys())
    return difference([ours[seed] for seed in both], [theirs[seed] for seed in both], of) if both else None
