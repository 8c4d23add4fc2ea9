"""What the study's records say, as tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.quality.grid import Cell
from benchmarks.quality.interval import Floats, Interval, paired

Found = Mapping[Cell, Mapping[str, Any]]
SHARES = ("25 %", "50 %", "100 %")
ATTRIBUTION = (
    ("matching hidden states", "joint", "task + logits only"),
    ("one module at a time", "round robin", "joint"),
    ("teacher forcing", "round robin", "active, round robin"),
    ("the bandit", "optima", "round robin"),
    ("choosing at random", "uniform", "round robin"),
    ("the bandit, on the student's own inputs", "active, optima", "active, round robin"),
    ("the bandit, training all modules", "all, optima", "all, round robin"),
    ("one module's loss, training all", "all, round robin", "joint"),
    ("knowing the module", "image only", "optima"),
    ("fixed shares", "shares 8:1:1", "optima"),
    ("rewards per cost", "optima per cost", "optima"),
    ("the tail", "optima", "optima, no tail"),
    ("everything", "optima", "joint"),
)
"""What is attributed, by which two methods: the first less the second."""


def tables(found: Found) -> str:
    """All that can be said of what was run, in Markdown."""
    parts = [part for problem, runs in _by_problem(found) for part in _problem(problem, runs)]
    return "\n\n".join(parts) if parts else "nothing was run yet"


def tuning(found: Found) -> str:
    """Each method's settings, the better first."""
    lines = ["| method | learning rate | layer weight | metric | held-out loss | seeds |", "|---|---|---|---|---|---|"]
    groups: dict[tuple[str, float, float], list[tuple[float, float]]] = {}
    for cell, told in found.items():
        last = told["results"][-1]
        scored = (_score(last), float(np.mean(last["loss"])))
        groups.setdefault((cell.method, cell.lr, cell.weight), []).append(scored)
    order = list(dict.fromkeys(cell.method for cell in found))
    for (method, lr, weight), scores in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), -float(np.mean([s for s, _ in item[1]])))
    ):
        score, loss = np.mean(scores, axis=0)
        lines.append(f"| {method} | {lr:g} | {weight:g} | {score:.1%} | {loss:.3f} | {len(scores)} |")
    return "\n".join(lines)


def lost(found: Found) -> str:
    """Why `optima` has not won, if it has not: its mean held-out loss is to be below joint's and round robin's."""
    ends: dict[str, list[float]] = {}
    for cell, told in found.items():
        ends.setdefault(cell.method, []).append(float(np.mean(told["results"][-1]["loss"])))
    means = {method: float(np.mean(losses)) for method, losses in ends.items()}
    better = [name for name, loss in means.items() if name != "optima" and loss <= means.get("optima", np.inf)]
    return f"the held-out loss of optima is not below that of {', '.join(better)}" if better else ""


def reach(results: Sequence[Mapping[str, Any]], loss: float) -> float | None:
    """The cost at which a run comes down to a loss; None if it never does. Between results that is read off a line;
    losses fall ever slower, so that it was there earlier, if anything."""
    ends = [(result["cost"], float(np.mean(result["loss"]))) for result in results]
    if ends[0][1] <= loss:
        return float(ends[0][0])
    for (before, high), (after, low) in itertools.pairwise(ends):
        if low <= loss:
            return float(before + (after - before) * (high - loss) / (high - low))
    return None


def difference(ours: list[Mapping[str, Any]], theirs: list[Mapping[str, Any]], of: str) -> Interval:
    """The first less the second at the end of the budget, of the ``metric`` or the ``loss``; seed by seed."""
    rows = [[_blocks(run, of) for run in runs] for runs in (ours, theirs)]
    mine, other = (np.stack(each) for each in rows)
    weights = np.full(mine.shape[1], float(ours[0]["results"][-1]["items"] if of == "metric" else 1.0))
    return paired(mine, other, weights)


def _blocks(run: Mapping[str, Any], of: str) -> Floats:
    last = run["results"][-1]
    return np.asarray(last["right"] if of == "metric" else last["loss"], dtype=float)


def _by_problem(found: Found) -> Iterator[tuple[str, dict[str, dict[int, Mapping[str, Any]]]]]:
    """Of every problem and budget the runs, by method and seed."""
    problems: dict[str, dict[str, dict[int, Mapping[str, Any]]]] = {}
    for cell, told in found.items():
        name = f"{cell.problem}, {cell.budget:g} s"
        problems.setdefault(name, {}).setdefault(cell.method, {})[cell.seed] = told
    yield from problems.items()


def _problem(name: str, runs: dict[str, dict[int, Mapping[str, Any]]]) -> Iterator[str]:
    teacher = next(iter(next(iter(runs.values())).values()))["teacher"]
    yield f"### {name}\n\nTeacher: {teacher:.1%}. Task metric / held-out distillation loss, by share of the budget:"
    yield "\n".join(_results(runs))
    compared = list(_attributed(runs))
    if compared:
        head = "| what | difference | metric, points | held-out loss | seeds |"
        yield "\n".join([head, "|---|---|---|---|---|", *compared])


def _results(runs: dict[str, dict[int, Mapping[str, Any]]]) -> Iterator[str]:
    """Metric and loss at shares of the budget; where joint's final loss is reached; shares of the arms."""
    yield f"| method | {' | '.join(SHARES)} | cost to joint's final loss, at most | rounds by arm | seeds |"
    yield "|---|" + "---|" * (len(SHARES) + 3)
    for method, by_seed in runs.items():
        results = [run["results"] for run in by_seed.values()]
        columns = []
        for at in range(len(SHARES)):
            score = np.mean([_score(each[at]) for each in results])
            loss = np.mean([np.mean(each[at]["loss"]) for each in results])
            columns.append(f"{score:.1%} / {loss:.3f}")
        told = _reached(by_seed, runs.get("joint", {}))
        yield f"| {method} | {' | '.join(columns)} | {told} | {_shares(by_seed)} | {len(by_seed)} |"


def costs_to_reach(ours: Mapping[int, Mapping[str, Any]], joint: Mapping[int, Mapping[str, Any]]) -> list[float | None]:
    """For each seed that both have: the cost to joint's final loss, as a share of what joint has spent; None if it was
    not reached."""
    costs: list[float | None] = []
    for seed in sorted(ours.keys() & joint.keys()):
        end = joint[seed]["results"][-1]
        cost = reach(ours[seed]["results"], float(np.mean(end["loss"])))
        costs.append(None if cost is None else cost / end["cost"])
    return costs


def _reached(ours: dict[int, Mapping[str, Any]], joint: dict[int, Mapping[str, Any]]) -> str:
    costs = costs_to_reach(ours, joint)
    there = [cost for cost in costs if cost is not None]
    if not there:
        return "not reached" if costs else "–"
    missed = f", {len(costs) - len(there)} of {len(costs)} never" if len(there) < len(costs) else ""
    return f"{np.mean(there):.2f}{missed}"


def _shares(by_seed: dict[int, Mapping[str, Any]]) -> str:
    arms = "".join(run["arms"] for run in by_seed.values())
    names = {"i": "image", "t": "text", "m": "decoder", "j": "joint"}
    return ", ".join(f"{name} {arms.count(letter) / len(arms):.0%}" for letter, name in names.items() if letter in arms)


def _attributed(runs: dict[str, dict[int, Mapping[str, Any]]]) -> Iterator[str]:
    for what, ours, theirs in ATTRIBUTION:
        both = sorted(runs.get(ours, {}).keys() & runs.get(theirs, {}).keys())
        if not both:
            continue
        sides = [[runs[name][seed] for seed in both] for name in (ours, theirs)]
        metric, loss = difference(*sides, "metric"), difference(*sides, "loss")
        shown = [shown_points(metric), shown_loss(loss)]
        yield f"| {what} | {ours} − {theirs} | {shown[0]} | {shown[1]} | {len(both)} |"


def shown_points(found: Interval) -> str:
    """A difference of a task's metric."""
    return _interval(found, lambda x: f"{100 * x:+.1f}")


def shown_loss(found: Interval) -> str:
    """A difference of losses."""
    return _interval(found, lambda x: f"{x:+.3f}")


def _interval(found: Interval, shown: Callable[[float], str]) -> str:
    return f"{shown(found.mean)} ({shown(found.low)} to {shown(found.high)})"


def _score(result: Mapping[str, Any]) -> float:
    return sum(result["right"]) / (result["items"] * len(result["right"]))
