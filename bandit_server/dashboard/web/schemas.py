"""What the JSON API answers, as OpenAPI describes it. Losses are unit-free, times Unix seconds, rewards fractions."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class TopArm(TypedDict):
    """The arm most probably best."""

    name: str
    index: int
    p_best: float | None


class Run(TypedDict):
    """A run in a line. `planned`: rounds of all workers together, null without an end; `decrement`: share of the
    first total loss that is gone; `alive`: workers that gave a sign of life lately, of `workers`."""

    run: str
    state: Literal["active", "finished", "unknown"]
    restored: bool
    policy: str
    rounds: int
    planned: int | None
    tail_rounds: int
    diverged: int
    first_loss: float | None
    last_loss: float | None
    decrement: float | None
    top_arm: TopArm | None
    arms: list[str]
    alive: int
    workers: int
    created: float
    updated: float
    recent_losses: list[float | None]


class Arm(TypedDict):
    """An arm's posterior (null before the first reward, and under policies that do not learn) and totals."""

    name: str
    modules: list[str]
    mean: float | None
    sd: float | None
    p_best: float | None
    effective_count: float | None
    pulls: int
    last_reward: float | None
    total_decrement: float | None
    total_seconds: float | None
    paused: bool


class Worker(TypedDict):
    """A worker. `heard`: its last sign of life; `done`: it has played all its rounds."""

    worker: str
    alive: bool
    done: bool
    heard: float | None
    round: int
    steps_per_second: float | None
    reports: int
    ranks: int | None
    device: str
    recipe: str
    versions: dict[str, str]
    teacher_metrics: dict[str, float | None]
    student_metrics: dict[str, float | None]


class RunDetail(Run):
    """A run with its arms and workers. `relative`: rewards are relative loss decrements; `settings`: (what, how)."""

    relative: bool
    settings: list[tuple[str, str]]
    arms: list[Arm]  # type: ignore[misc]
    workers: list[Worker]  # type: ignore[misc]


class Status(TypedDict):
    """How things stand with the bandit server; `since`: when it was heard last."""

    state: Literal["connecting", "reading", "live", "stale", "missing"]
    since: float | None
    reason: str


class Line(TypedDict):
    """A line of a chart, thinned: `x` pull numbers, `t` the run's seconds of training until then, `y` its columns,
    null for a round that diverged. `index`: of the arm (posterior, best, share, spent) or of the worker."""

    chart: Literal["posterior", "best", "share", "spent", "bandit", "total", "term", "metric"]
    name: str
    index: int
    x: list[int]
    t: list[float]
    y: list[list[float | None]]


class LogEntry(TypedDict):
    """An event of the history; what does not apply to its kind is null or empty."""

    version: int
    time: float
    kind: Literal["created", "worker", "pull", "report", "diverged", "superseded", "arm", "finished", "restored"]
    worker: str
    round: int | None
    pull: int | None
    arm: str
    by: str
    before: float | None
    after: float | None
    total: float | None
    reward: float | None
    seconds: float | None
    note: str


class Runs(TypedDict):
    """All runs."""

    status: Status
    now: float
    server: str
    reset: bool
    runs: list[Run]
    removed: list[str]


class Whole(TypedDict):
    """A run, thinned. `cells`: [first pull, last pull, worker, arm, marks, how many, begin, end], marks being the sum
    of 1 open, 2 fallback, 4 tail, 8 diverged, 16 superseded; `log`: the last events, newest first."""

    status: Status
    now: float
    version: int
    run: RunDetail
    arm_names: list[str]
    worker_ids: list[str]
    highest: int
    seconds: float
    reset: bool
    cells: list[list[float]]
    series: list[Line]
    log: list[LogEntry]


class Events(TypedDict):
    """Events of a history, newest first."""

    events: list[LogEntry]


class Health(TypedDict, total=False):
    """This process, and whether the bandit server answers it."""

    status: Literal["ok"]
    bandit_server: Literal["reachable", "away"]
    reason: str


class Problem(TypedDict):
    """What was wrong, in a sentence."""

    detail: str


class Done(TypedDict):
    """The run as it stands after the change; null when it is deleted."""

    run: RunDetail | None
