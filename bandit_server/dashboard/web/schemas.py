"""Schemas of the JSON API for OpenAPI. Losses are unit-free, times are Unix seconds, rewards are fractions."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class TopArm(TypedDict):
    """The arm most probably best."""

    name: str
    index: int
    p_best: float | None


class Run(TypedDict):
    """A run in the list of runs.

    `planned`: rounds of all workers together, null without an end; `decrement`: fraction of the first total loss that
    is gone; `alive`: workers with a recent heartbeat, of `workers`.
    """

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
    """An arm's posterior and totals.

    The posterior is null before the first reward, and for policies that do not learn.
    """

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
    """A worker. `heard`: time of its last heartbeat; `done`: it has played all its rounds."""

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
    """A run with its arms and workers.

    `relative`: rewards are relative loss decrements; `settings`: (name, explanation) of each setting.
    """

    relative: bool
    settings: list[tuple[str, str]]
    arms: list[Arm]  # type: ignore[misc]
    workers: list[Worker]  # type: ignore[misc]


class Status(TypedDict):
    """The state of the connection to the bandit server. `since`: time of its last answer."""

    state: Literal["connecting", "reading", "live", "stale", "missing"]
    since: float | None
    reason: str


class Line(TypedDict):
    """A line of a chart, thinned.

    `index`: of the arm (posterior, best, share, spent) or of the worker; `x`: pull numbers; `t`: training time of the
    run until then, in seconds; `y`: columns of values, null for a round that diverged.
    """

    chart: Literal["posterior", "best", "share", "spent", "bandit", "total", "term", "metric"]
    name: str
    index: int
    x: list[int]
    t: list[float]
    y: list[list[float | None]]


class LogEntry(TypedDict):
    """An event of the history. Fields that do not apply to its kind are null or empty."""

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
    """A run, thinned.

    `cells`: [first pull, last pull, worker, arm, flags, number of pulls, begin, end], where flags is the sum of 1 open,
    2 fallback, 4 tail, 8 diverged, 16 superseded, and begin and end are training time in seconds; `log`: the last
    events, newest first.
    """

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
    """The health of this process, and whether the bandit server answers it."""

    status: Literal["ok"]
    bandit_server: Literal["reachable", "away"]
    reason: str


class Problem(TypedDict):
    """An error, described in a sentence."""

    detail: str


class Done(TypedDict):
    """The run after the change; null if it was deleted."""

    run: RunDetail | None
