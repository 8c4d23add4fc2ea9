"""The study's records as tables, and paired intervals of a difference between two methods."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.quality.grid import STUDENTS, Cell

Floats = npt.NDArray[np.float64]
Record = Mapping[str, Any]
"""The record of a run, from `benchmarks.quality.run`."""
Runs = Mapping[Cell, Record]
BySeed = dict[int, Record]
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
"""The cause that a difference between two methods, the first minus the second, is attributed to."""


class Interval(NamedTuple):
    """A mean difference and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def paired(ours: Floats, theirs: Floats, weights: Floats, *, draws: int = 2000, seed: int = 0) -> Interval:
    """Return the percentile bootstrap (Efron 1979) of the mean of ours − theirs over two crossed factors.

    Args:
        ours: Results of one method, [seeds, images]: for each source image the sum over the items that show it.
        theirs: Results of the other method, for the same seeds and items.
        weights: Number of items that show each image, [images].
        draws: Bootstrap samples; seeds and images are both resampled.
        seed: Seed of the samples.

    Raises:
        ValueError: The shapes differ.
    """
    if ours.shape != theirs.shape or ours.shape[1:] != weights.shape:
        raise ValueError(f"the methods do not pair: {ours.shape} and {theirs.shape}, weights {weights.shape}")
    gap = ours - theirs
    seeds, images = gap.shape
    rng = np.random.default_rng(seed)
    by_seed = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    by_image = rng.multinomial(images, np.full(images, 1 / images), draws)
    means = ((by_seed @ gap) * by_image).sum(1) / (by_image @ weights)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(gap.mean(0).sum() / weights.sum()), float(low), float(high))


def tables(runs: Runs) -> str:
    """Return all tables of these runs, in Markdown."""
    parts = [part for problem, methods in _by_problem(runs) for part in _problem(problem, methods)]
    return "\n\n".join(parts) if parts else "no run is finished yet"


def tuning(runs: Runs) -> str:
    """Return a table of each method's settings, the best first."""
    lines = ["| method | learning rate | layer weight | metric | held-out loss | seeds |", "|---|---|---|---|---|---|"]
    groups: dict[tuple[str, float, float], list[tuple[float, float]]] = {}
    for cell, record in runs.items():
        last = record["results"][-1]
        scored = (_score(last), float(np.mean(last["loss"])))
        groups.setdefault((cell.method, cell.lr, cell.weight), []).append(scored)
    order = list(dict.fromkeys(cell.method for cell in runs))
    for (method, lr, weight), scores in sorted(
        groups.items(), key=lambda item: (order.index(item[0][0]), -float(np.mean([s for s, _ in item[1]])))
    ):
        score, loss = np.mean(scores, axis=0)
        lines.append(f"| {method} | {lr:g} | {weight:g} | {score:.1%} | {loss:.3f} | {len(scores)} |")
    return "\n".join(lines)


def not_best(runs: Runs) -> str:
    """Return a sentence if `optima` does not have the lowest mean held-out loss, or ""."""
    ends: dict[str, list[float]] = {}
    for cell, record in runs.items():
        ends.setdefault(cell.method, []).append(float(np.mean(record["results"][-1]["loss"])))
    means = {method: float(np.mean(losses)) for method, losses in ends.items()}
    better = [name for name, loss in means.items() if name != "optima" and loss <= means.get("optima", np.inf)]
    return f"the held-out loss of optima is not below that of {', '.join(better)}" if better else ""


def reach(results: Sequence[Record], loss: float) -> float | None:
    """Return the cost at which a run reaches a loss; None if it never does.

    It is interpolated between results. Since losses fall ever more slowly, the true cost is lower, if anything.
    """
    ends = [(result["cost"], float(np.mean(result["loss"]))) for result in results]
    if ends[0][1] <= loss:
        return float(ends[0][0])
    for (before, high), (after, low) in itertools.pairwise(ends):
        if low <= loss:
            return float(before + (after - before) * (high - loss) / (high - low))
    return None


def difference(ours: Sequence[Record], theirs: Sequence[Record], quantity: str) -> Interval:
    """Return ours − theirs at the end of the budget, paired by seed.

    Args:
        ours: Runs of one method, one for each seed.
        theirs: Runs of the other method, in the same order of seeds.
        quantity: ``metric`` or ``loss``.
    """
    first, second = (np.stack([_by_block(record, quantity) for record in records]) for records in (ours, theirs))
    items = float(ours[0]["results"][-1]["items"]) if quantity == "metric" else 1.0
    return paired(first, second, np.full(first.shape[1], items))


def _by_block(record: Record, quantity: str) -> Floats:
    last = record["results"][-1]
    return np.asarray(last["right"] if quantity == "metric" else last["loss"], dtype=float)


def _by_problem(runs: Runs) -> Iterator[tuple[str, dict[str, BySeed]]]:
    """Yield every problem with its budget, and its runs by method and seed."""
    problems: dict[str, dict[str, BySeed]] = {}
    for cell, record in runs.items():
        name = f"{cell.problem}, {cell.budget:g} s"
        problems.setdefault(name, {}).setdefault(cell.method, {})[cell.seed] = record
    yield from problems.items()


def _problem(name: str, methods: dict[str, BySeed]) -> Iterator[str]:
    teacher = next(iter(next(iter(methods.values())).values()))["teacher"]
    yield f"### {name}\n\nTeacher: {teacher:.1%}. Task metric / held-out distillation loss, by share of the budget:"
    yield "\n".join(_results(methods, STUDENTS[name.split("/")[1]].arms))
    differences = list(_attributed(methods))
    if differences:
        head = "| what | difference | metric, points | held-out loss | seeds |"
        yield "\n".join([head, "|---|---|---|---|---|", *differences])


def _results(methods: dict[str, BySeed], arms: Mapping[str, str]) -> Iterator[str]:
    """Yield a table: metric and loss at shares of the budget, the cost to joint's final loss, shares of the arms."""
    yield f"| method | {' | '.join(SHARES)} | cost to joint's final loss, at most | rounds by arm | seeds |"
    yield "|---|" + "---|" * (len(SHARES) + 3)
    for method, by_seed in methods.items():
        results = [record["results"] for record in by_seed.values()]
        columns = []
        for at in range(len(SHARES)):
            score = np.mean([_score(each[at]) for each in results])
            loss = np.mean([np.mean(each[at]["loss"]) for each in results])
            columns.append(f"{score:.1%} / {loss:.3f}")
        cost = _cost_to_reach(by_seed, methods.get("joint", {}))
        yield f"| {method} | {' | '.join(columns)} | {cost} | {_shares(by_seed, arms)} | {len(by_seed)} |"


def costs_to_reach(ours: Mapping[int, Record], joint: Mapping[int, Record]) -> list[float | None]:
    """Return the cost to joint's final loss, as a share of joint's own cost, for each seed that both have.

    It is None for a run that does not reach that loss.
    """
    costs: list[float | None] = []
    for seed in sorted(ours.keys() & joint.keys()):
        end = joint[seed]["results"][-1]
        cost = reach(ours[seed]["results"], float(np.mean(end["loss"])))
        costs.append(None if cost is None else cost / end["cost"])
    return costs


def _cost_to_reach(ours: BySeed, joint: BySeed) -> str:
    costs = costs_to_reach(ours, joint)
    reached = [cost for cost in costs if cost is not None]
    if not reached:
        return "not reached" if costs else "–"
    missed = f", {len(costs) - len(reached)} of {len(costs)} never" if len(reached) < len(costs) else ""
    return f"{np.mean(reached):.2f}{missed}"


def _shares(by_seed: BySeed, arms: Mapping[str, str]) -> str:
    played = "".join(record["arms"] for record in by_seed.values())
    names = (*arms.items(), ("j", "joint"))
    return ", ".join(f"{name} {played.count(letter) / len(played):.0%}" for letter, name in names if letter in played)


def _attributed(methods: dict[str, BySeed]) -> Iterator[str]:
    for cause, ours, theirs in ATTRIBUTION:
        seeds = sorted(methods.get(ours, {}).keys() & methods.get(theirs, {}).keys())
        if not seeds:
            continue
        first, second = ([methods[name][seed] for seed in seeds] for name in (ours, theirs))
        metric, loss = difference(first, second, "metric"), difference(first, second, "loss")
        yield f"| {cause} | {ours} − {theirs} | {format_points(metric)} | {format_loss(loss)} | {len(seeds)} |"


def format_points(interval: Interval) -> str:
    """Return a difference of a task's metric, in points."""
    return _format(interval, lambda x: f"{100 * x:+.1f}")


def format_loss(interval: Interval) -> str:
    """Return a difference of losses."""
    return _format(interval, lambda x: f"{x:+.3f}")


def _format(interval: Interval, number: Callable[[float], str]) -> str:
    return f"{number(interval.mean)} ({number(interval.low)} to {number(interval.high)})"


def _score(result: Mapping[str, Any]) -> float:
    return float(sum(result["right"]) / (result["items"] * len(result["right"])))
