"""The grid of the study: methods, students, amounts of data, and the settings each method was tuned to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from benchmarks.quality.tasks import TASKS
from worker.data.digits.rows import TRAIN_DIGITS
from worker.distill.plan import Mode
from worker.recipe.recipe import BUILT_IN, Recipe, read_recipe

TAIL = 0.3
"""Share of the budget, at its end, in which all modules are trained jointly."""
STEPS_PER_ROUND, BATCH, PROBE_ROWS = 5, 32, 64


@dataclass(frozen=True)
class Method:
    """One way to spend the budget.

    Attributes:
        train: What a round trains (worker/distill/plan.py).
        policy: The policy that chooses; "" for joint steps throughout, without a bandit.
        shares: Shares of image, text and decoder in the rounds before the tail, instead of a policy.
        tail: Share of the budget, at its end, that is joint.
        cost_aware: Whether rewards are divided by cost.
        absolute: Whether rewards are decrements of the loss itself instead of shares of it.
        end_to_end: Whether rewards are of the whole loss on the student's own inputs, whatever `train` says.
        options: The policy's options.
        layers: Whether hidden states are matched.
        like: The method whose settings it uses, if it was not tuned itself.
    """

    train: Mode = "forced"
    policy: str = ""
    shares: tuple[float, ...] = ()
    tail: float = 0.0
    cost_aware: bool = False
    absolute: bool = False
    end_to_end: bool = False
    options: Mapping[str, float] = field(default_factory=dict)
    layers: bool = True
    like: str = ""

    @property
    def learns(self) -> bool:
        """Whether its choices need rewards, so that measuring them is part of its cost."""
        return self.policy == "optima"


METHODS: dict[str, Method] = {
    "joint": Method(),
    "task + logits only": Method(layers=False),
    "round robin": Method(policy="round_robin", tail=TAIL),
    "uniform": Method(policy="uniform", tail=TAIL, like="round robin"),
    "optima": Method(policy="optima", tail=TAIL),
    "optima per cost": Method(policy="optima", tail=TAIL, cost_aware=True, like="optima"),
    "round robin, no tail": Method(policy="round_robin", like="round robin"),
    "optima, no tail": Method(policy="optima", like="optima"),
    "all, round robin": Method("all", "round_robin", like="joint"),
    "all, optima": Method("all", "optima", like="all, round robin"),
    "active, round robin": Method("active", "round_robin", tail=TAIL, like="joint"),
    "active, optima": Method("active", "optima", tail=TAIL, like="active, round robin"),
    "optima, absolute": Method(policy="optima", tail=TAIL, absolute=True, like="optima"),
    "optima, absolute per cost": Method(policy="optima", tail=TAIL, absolute=True, cost_aware=True, like="optima"),
    "optima, end to end": Method(policy="optima", tail=TAIL, end_to_end=True, like="optima"),
    "optima, settle 0": Method(policy="optima", tail=TAIL, options={"settle": 0.0}, like="optima"),
    "optima, half as curious": Method(policy="optima", tail=TAIL, options={"exploration": 0.5}, like="optima"),
    "optima, tail 15 %": Method(policy="optima", tail=0.15, like="optima"),
    "optima, tail 50 %": Method(policy="optima", tail=0.5, like="optima"),
    "image only": Method(shares=(1, 0, 0), tail=TAIL, like="round robin"),
    "text only": Method(shares=(0, 1, 0), tail=TAIL, like="round robin"),
    "decoder only": Method(shares=(0, 0, 1), tail=TAIL, like="round robin"),
} | {
    # The rounds out of ten that image, text and decoder get.
    f"shares {image}:{text}:{decoder}": Method(shares=(image, text, decoder), tail=TAIL, like="round robin")
    for image, text, decoder in [(8, 1, 1), (6, 2, 2), (6, 1, 3), (6, 3, 1), (4, 3, 3), (4, 1, 5), (4, 5, 1), (2, 4, 4)]
}


Settings = tuple[float, float]
"""Peak learning rate, and weight of the layer terms."""


@dataclass(frozen=True)
class StudentKind:
    """One student of the study, and its teacher.

    Attributes:
        overrides: Fields of the recipe that make it.
        recipe: The recipe.
        batches: What a batch of the digits data holds.
        tuned_on: The problem on whose first seeds the settings of its methods are tuned.
        usual: Peak learning rate and weight of the layer terms where nothing was tuned: those of the recipe.
        arms: Names of its arms by their first letter, which stands for them in records.
        tasks: The tasks that its teacher was trained for.
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    recipe: Path = BUILT_IN
    batches: Literal["coca", "llava"] = "coca"
    tuned_on: str = "questions/uneven/little"
    usual: Settings = (6e-3, 100.0)
    arms: Mapping[str, str] = field(default_factory=lambda: {"i": "image", "t": "text", "m": "decoder"})
    tasks: tuple[str, ...] = tuple(TASKS)


STUDENTS = {
    "uneven": StudentKind({"student.keep": {"image": 2, "text": 4, "multimodal": 4}}),
    "even": StudentKind({"student.keep": {"image": 4, "text": 2, "multimodal": 2}}),
    "vlm": StudentKind(
        recipe=BUILT_IN.parent / "digits-vlm.yaml",
        batches="llava",
        tuned_on="questions/vlm/little",
        usual=(6e-3, 100.0),
        arms={name[0]: name for name in ("image", "lower", "middle", "upper")},
        tasks=("questions", "entailment", "captions"),
    ),
}
"""Students cut from the CoCa, of 8 image, 4 text and 4 decoder layers; and the one of the LLaVA's own recipe."""
AMOUNTS = {"little": 150, "plenty": TRAIN_DIGITS}
"""Number of source digits in the transfer set."""
BARE = (7.5e-4, 0.0)
"""Learning rate and weight, where nothing was tuned, of methods without layer terms, for which the usual rate is far
too high."""
ALIKE = 0.005
"""Difference in the metric below which two settings count as equally good."""
FIRST_TRIED, FIRST_REPORTED = 110, 200
"""Settings are tuned with seeds below the first number; everything else is tried out on seeds from the first to the
second number; seeds from the second number on are reported."""

_NAME = re.compile(r"(\w+)/(\w+)/(\w+) (.+) (\S+)s lr=(\S+) layers=(\S+) #(\d+)")


@dataclass(frozen=True)
class Cell:
    """One run of the study.

    Attributes:
        task: A key of `TASKS`.
        student: A key of `STUDENTS`.
        amount: A key of `AMOUNTS`.
        method: A key of `METHODS`.
        seed: Its seed.
        budget: Calibrated seconds.
        lr: Its peak learning rate.
        weight: Its weight of the layer terms.
    """

    task: str
    student: str
    amount: str
    method: str
    seed: int
    budget: float
    lr: float
    weight: float

    @property
    def problem(self) -> str:
        """The problem, whatever the method: ``task/student/amount``."""
        return f"{self.task}/{self.student}/{self.amount}"

    @property
    def name(self) -> str:
        """The name of the run, which `from_name` parses."""
        settings = f"{self.budget:g}s lr={self.lr:g} layers={self.weight:g}"
        return f"{self.problem} {self.method} {settings} #{self.seed}"

    @classmethod
    def from_name(cls, name: str) -> Cell:
        """Parse the name of a run; raise ValueError if it is not one."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not the name of a run of the study")
        task, student, amount, method, budget, lr, weight, seed = match.groups()
        return cls(task, student, amount, method, int(seed), float(budget), float(lr), float(weight))

    @property
    def tunes(self) -> bool:
        """Whether settings are tuned on it."""
        return self.problem == STUDENTS[self.student].tuned_on and self.seed < FIRST_TRIED

    @property
    def rank(self) -> tuple[int, ...]:
        """Its sort key in a report."""
        orders: list[Iterable[str]] = [STUDENTS, AMOUNTS, TASKS, METHODS]
        parts = (self.student, self.amount, self.task, self.method)
        return (*(list(order).index(part) for part, order in zip(parts, orders, strict=True)), self.seed)

    def recipe(self, steps_per_round: int = STEPS_PER_ROUND) -> Recipe:
        """Return the student's recipe with the changes of this run."""
        method, student = METHODS[self.method], STUDENTS[self.student]
        overrides: dict[str, Any] = {
            **student.overrides,
            "data.name": "benchmarks.quality.tasks:build",
            "data.options": {
                "task": self.task,
                "seed": self.seed,
                "source_digits": AMOUNTS[self.amount],
                "batches": student.batches,
            },
            "data.batch_size": BATCH,
            "train": method.train,
            "cost_aware": method.cost_aware,
            "policy.name": method.policy or "joint",
            "policy.options": dict(method.options),
            # The budget decides on the length of the run and of its tail; see benchmarks/quality/run.py.
            "rounds": 0,
            "tail": 0.0,
            "steps_per_round": steps_per_round,
            "seed": self.seed,
            "loss.layers": self.weight,
            "optimizer.lr": self.lr,
            "probe.batch_size": PROBE_ROWS,
        }
        if self.task == "two_pictures":
            overrides["teacher.checkpoint"] = "../models/digits-coca-two-pictures/model.safetensors"
        return read_recipe(student.recipe, overrides).fixed(steps_per_round, probe_batches=1, evaluate_every=10**9)


def tuned(runs: Mapping[str, Any]) -> dict[tuple[str, str], Settings]:
    """Return the settings with which each method did best on the tuning seeds, by student and method.

    The best settings have the lowest mean held-out loss among those whose metric is within half a point of the highest:
    one or two seeds do not show smaller differences.

    Args:
        runs: All records of runs, by name.
    """
    ends: dict[tuple[str, str], dict[Settings, list[tuple[float, float]]]] = {}
    for name, record in runs.items():
        cell = Cell.from_name(name)
        if cell.tunes:
            last = record["results"][-1]
            score = sum(last["right"]) / (last["items"] * len(last["right"]))
            tried = ends.setdefault((cell.problem, cell.method), {})
            tried.setdefault((cell.lr, cell.weight), []).append((score, fmean(last["loss"])))
    best: dict[tuple[str, str], Settings] = {}
    for where, tried in ends.items():
        means = {settings: tuple(map(fmean, zip(*pairs, strict=True))) for settings, pairs in tried.items()}
        highest = max(score for score, _ in means.values())
        near = {settings: loss for settings, (score, loss) in means.items() if score > highest - ALIKE}
        best[where] = min(near, key=near.__getitem__)
    return {
        (name, method): best.get((kind.tuned_on, method))
        or best.get((kind.tuned_on, METHODS[method].like))
        or (kind.usual if METHODS[method].layers else BARE)
        for name, kind in STUDENTS.items()
        for method in METHODS
    }


def cells(
    problems: Sequence[str],
    methods: Sequence[str],
    seeds: Iterable[int],
    budget: float,
    settings: Mapping[tuple[str, str], Settings],
) -> Iterator[Cell]:
    """Yield runs, the most informative first: all methods of a problem, seed by seed.

    Raises:
        ValueError: A problem or method does not exist.
    """
    numbers = list(seeds)
    for name in methods:
        if name not in METHODS:
            raise ValueError(f"there is no method {name!r}; the methods are {', '.join(METHODS)}")
    for problem in problems:
        parts = problem.split("/")
        names: list[Iterable[str]] = [TASKS, STUDENTS, AMOUNTS]
        if len(parts) != 3 or any(part not in known for part, known in zip(parts, names, strict=True)):
            pattern = "/".join("{" + ",".join(known) + "}" for known in names)
            raise ValueError(f"{problem!r} is not a recipe of the study; expected {pattern}")
        task, student, amount = parts
        kind = STUDENTS[student]
        if task not in kind.tasks:
            raise ValueError(f"the teacher of {problem} was not trained for {task}, only for {', '.join(kind.tasks)}")
        for name in methods:
            if METHODS[name].shares and len(METHODS[name].shares) != len(kind.arms):
                raise ValueError(
                    f"{name!r} has other arms than {problem}, whose arms are {', '.join(kind.arms.values())}"
                )
        for seed in numbers:
            for method in methods:
                yield Cell(task, student, amount, method, seed, budget, *settings[student, method])
