"""The thresholds of the study, recipe by recipe.

They ask whether matching hidden states pays at all, how much sooner `optima` reaches the final loss of joint
distillation, and what the bandit gains over round robin.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import fmean
from typing import NamedTuple

from benchmarks.quality.report import Interval, Record, Runs, costs_to_reach, difference, format_loss, format_points

BUDGET, LESS, WORSE = 24.0, 14.4, -0.5
"""The usual budget; the budget within which `optima` must reach joint's final loss (0.6 of the usual); and by how many
points it may be worse with plenty of data."""
HEAD = (
    "recipe",
    "seeds",
    "matching hidden states: joint − task + logits, points",
    "optima with 0.6 of the budget − joint with all of it, held-out loss",
    "cost along one run to joint's final loss, at most",
    "optima − joint, points",
    "optima − round robin, held-out loss",
)


class Row(NamedTuple):
    """The results of one recipe; None where a method was not run.

    Attributes:
        problem: The recipe.
        seeds: Number of seeds.
        layerwise: Metric of joint − task and logits only.
        sooner: Loss of `optima` with 0.6 of the budget − joint with all of it.
        cost: Mean cost to joint's final loss, as a share of joint's; None if some run does not reach it.
        points: Metric of `optima` − joint.
        bandit: Loss of `optima` − round robin.
    """

    problem: str
    seeds: int
    layerwise: Interval | None
    sooner: Interval | None
    cost: float | None
    points: Interval | None
    bandit: Interval | None

    @property
    def markdown(self) -> str:
        """The row in Markdown."""
        losses = [format_loss(interval) if interval else "–" for interval in (self.sooner, self.bandit)]
        points = [format_points(interval) if interval else "–" for interval in (self.layerwise, self.points)]
        cost = "not always reached" if self.cost is None else f"{self.cost:.2f}"
        cells = (self.problem, str(self.seeds), points[0], losses[0], cost, points[1], losses[1])
        return f"| {' | '.join(cells)} |"

    @property
    def as_good(self) -> bool:
        """Whether the metric meets its threshold: better than joint with little data, hardly worse with plenty."""
        return self.points is not None and 100 * self.points.low > (0 if self.problem.endswith("/little") else WORSE)


def summary(runs: Runs) -> str:
    """Return a Markdown table with a row for each recipe, and how many recipes meet each threshold.

    It is "" if there is no recipe with runs of both joint and `optima` with the usual budget.
    """
    rows = list(_rows(runs))
    if not rows:
        return ""
    sooner = sum(row.sooner is not None and row.sooner.mean <= 0 for row in rows)
    bandit = sum(row.bandit is not None and row.bandit.high < 0 for row in rows)
    good = sum(row.as_good for row in rows)
    counts = (
        f"Of {len(rows)} recipes, optima reaches joint's final loss with 0.6 of joint's budget on {sooner}; has a "
        f"better metric than joint (with plenty of data: one not worse by {-WORSE} points) with an interval that "
        f"confirms it on {good}; and has a lower loss than round robin, confirmed likewise, on {bandit}."
    )
    head = [f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
    return "\n".join([*head, *(row.markdown for row in rows), "", counts])


def _rows(runs: Runs) -> Iterator[Row]:
    problems: dict[str, dict[tuple[str, bool], dict[int, Record]]] = {}
    for cell, record in runs.items():
        if cell.budget in {BUDGET, LESS}:
            methods = problems.setdefault(cell.problem, {})
            methods.setdefault((cell.method, cell.budget == BUDGET), {})[cell.seed] = record
    for problem, methods in problems.items():
        joint, ours = methods.get(("joint", True), {}), methods.get(("optima", True), {})
        costs = costs_to_reach(ours, joint)
        if costs:
            reached = [cost for cost in costs if cost is not None]
            yield Row(
                problem,
                len(costs),
                _difference(joint, methods.get(("task + logits only", True), {}), "metric"),
                _difference(methods.get(("optima", False), {}), joint, "loss"),
                fmean(reached) if len(reached) == len(costs) else None,
                _difference(ours, joint, "metric"),
                _difference(ours, methods.get(("round robin", True), {}), "loss"),
            )


def _difference(ours: Mapping[int, Record], theirs: Mapping[int, Record], quantity: str) -> Interval | None:
    """Return the difference over the seeds that both have."""
    seeds = sorted(ours.keys() & theirs.keys())
    return difference([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds], quantity) if seeds else None
