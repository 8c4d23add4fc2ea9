"""The view of a run, folded from its history."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.dashboard.view.run_view import DIVERGED, FALLBACK, MIN_POINTS, OPEN, SUPERSEDED, TAIL, RunView
from protos.optima.v1 import bandit_pb2 as pb
from tests.bandit_server.dashboard.history import History


def view_of(history: History) -> RunView:
    view = RunView()
    view.apply(history.batch(), received=0.0)
    return view


def flags(payload: dict[str, Any]) -> dict[int, int]:
    return {cell[0]: cell[4] for cell in payload["cells"]}


def line(payload: dict[str, Any], chart: str, index: int = 0) -> dict[str, Any]:
    (found,) = [line for line in payload["series"] if line["chart"] == chart and line["index"] == index]
    return dict(found)


def test_each_pull_shows_how_it_stands() -> None:
    history = History()
    history.select(0, "image")
    history.report(0, "image")
    history.select(1, "text")
    history.report(2, "multimodal", chosen_by=pb.CHOSEN_BY_FALLBACK, superseded=1)
    history.select(3, "image")
    history.report(3, "image", diverged=True)
    history.report(4, "joint", chosen_by=pb.CHOSEN_BY_TAIL)
    history.select(5, "text")
    payload = view_of(history).snapshot(1000)
    assert flags(payload) == {0: 0, 1: SUPERSEDED, 2: FALLBACK, 3: DIVERGED, 4: TAIL, 5: OPEN}
    assert payload["arm_names"] == ["image", "text", "multimodal", "joint"]
    assert payload["worker_ids"] == ["w1"]


def test_a_diverged_round_is_a_gap_and_not_a_zero() -> None:
    history = History()
    for number in range(3):
        history.select(number, "image")
        history.report(number, "image", diverged=number == 1, total_loss=None if number == 1 else 2.0)
    payload = view_of(history).snapshot(1000)
    assert line(payload, "bandit")["y"] == [[1.0, None, 1.0], [0.9, None, 0.9]]
    assert line(payload, "total")["y"] == [[2.0, None, 2.0]]


def test_values_that_were_not_measured_are_not_drawn() -> None:
    history = History()
    history.select(0, "image")
    history.report(0, "image")
    payload = view_of(history).snapshot(1000)
    assert {one["chart"] for one in payload["series"]} == {"bandit", "posterior", "best", "share", "spent"}
    assert payload["run"]["last_loss"] is None
    assert payload["run"]["arms"][0]["mean"] is None
    assert payload["run"]["top_arm"] is None


def test_the_posterior_stands_at_the_highest_pull_it_had_seen() -> None:
    history = History()
    for number, worker in enumerate(["w1", "w2", "w3"]):
        history.select(number, "image", worker)
    history.report(1, "image", worker="w2")
    history.report(0, "image", worker="w1")
    history.select(3, "text", "w1")
    history.report(2, "image", worker="w3")
    posterior = line(view_of(history).snapshot(1000), "posterior", index=2)
    assert posterior["x"] == [2, 3]
    assert [column[0] for column in posterior["y"]] == [pytest.approx(0.03), pytest.approx(0.001)]
    assert line(view_of(history).snapshot(1000), "best", index=2)["y"] == [[pytest.approx(1 / 3)] * 2]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(0, 10**6))
def test_the_view_does_not_depend_on_how_history_is_cut_into_batches(sizes: list[int], seed: int) -> None:
    history = History()
    for number in range(20):
        arm = history.arms[(seed >> number) % 3]
        history.select(number, arm)
        history.report(number, arm, diverged=(seed + number) % 7 == 0, total_loss=1.0 / (number + 1))
    cut = RunView()
    while cut.version < len(history.events):
        size = sizes[cut.version % len(sizes)]
        cut.apply(history.batch(cut.version, min(cut.version + size, len(history.events))), received=0.0)
    assert cut.snapshot(1000) == view_of(history).snapshot(1000)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60))
def test_a_snapshot_and_what_came_since_equal_a_later_snapshot(early: int) -> None:
    history = History()
    for number in range(20):
        history.select(number, "text")
        history.report(number, "text", total_loss=float(number))
    view = RunView()
    early = max(1, min(early, len(history.events)))
    view.apply(history.batch(0, early), received=0.0)
    then = view.snapshot(1000)
    if early < len(history.events):
        view.apply(history.batch(early), received=0.0)
    news, whole = view.since(early), view.snapshot(1000)
    assert {**flags(then), **flags(news)} == flags(whole)
    for full in whole["series"]:
        key = (full["chart"], full["name"], full["index"])
        points: dict[int, tuple[float, ...]] = {}
        for payload in (then, news):
            for part in payload["series"]:
                if (part["chart"], part["name"], part["index"]) == key:
                    points.update(zip(part["x"], zip(*part["y"], strict=True), strict=True))
        assert points == dict(zip(full["x"], zip(*full["y"], strict=True), strict=True))


def test_history_from_the_start_replaces_the_old_one() -> None:
    history = History()
    history.select(0, "image")
    view = view_of(history)
    other = History(arms=("left", "right"), incarnation="second")
    other.select(0, "right")
    view.apply(other.batch(), received=0.0)
    assert view.epoch == 1
    assert view.incarnation == "second"
    assert view.snapshot(1000)["arm_names"] == ["left", "right"]


def test_a_batch_that_does_not_continue_the_history_is_refused() -> None:
    history = History()
    history.select(0, "image")
    history.report(0, "image")
    view = RunView()
    view.apply(history.batch(0, 2), received=0.0)
    with pytest.raises(ValueError, match="expected history from version 2, got it from 1"):
        view.apply(history.batch(1), received=0.0)


def test_a_posterior_of_other_arms_is_refused() -> None:
    history = History()
    history.select(0, "image")
    history.report(0, "image")
    history.points[-1].mean.append(0.5)
    with pytest.raises(ValueError, match="expected a posterior of 3 arms, got 4 means"):
        view_of(history)


def test_a_batch_without_events_keeps_the_history() -> None:
    history = History()
    history.select(0, "image")
    view = view_of(history)
    quiet = history.batch(len(history.events))
    quiet.run.workers.add(worker="w1", alive=True, heartbeat_age=2.0)
    quiet.from_version = 0
    view.apply(quiet, received=100.0)
    payload = view.since(view.version)
    assert payload["cells"] == []
    assert payload["run"]["workers"][0]["heard"] == 98.0
    assert view.version == len(history.events)


def test_ten_thousand_rounds_fit_a_bounded_message_that_shows_every_flag() -> None:
    history = History()
    for number in range(10_000):
        arm = history.arms[number % 3]
        history.select(number, arm)
        if number < 9_999:
            history.report(number, arm, diverged=number in (17, 5_000), total_loss=1.0)
    payload = view_of(history).snapshot(2000)
    cells = payload["cells"]
    assert sum(cell[5] for cell in cells) == 10_000
    assert len(cells) <= 2000 * 3 + 3
    assert [cell[0] for cell in cells if cell[4] == DIVERGED] == [17, 5_000]
    assert [cell[0] for cell in cells if cell[4] == OPEN] == [9_999]
    assert max(len(one["x"]) for one in payload["series"]) <= MIN_POINTS
    assert len(payload["log"]) == 100
    assert len(json.dumps(payload)) < 1_000_000


def test_shares_of_recent_pulls_and_totals_of_each_arm() -> None:
    history = History()
    for number in range(30):
        arm = "image" if number < 15 else "text"
        history.select(number, arm)
        history.report(number, arm, before=2.0, after=1.5, seconds=4.0)
    history.report(30, "joint", before=1.0, after=0.75, seconds=8.0, chosen_by=pb.CHOSEN_BY_TAIL)
    payload = view_of(history).snapshot(1000)
    assert line(payload, "share", 0)["y"][0][-2:] == [0.25, 0.2]
    assert line(payload, "share", 1)["y"][0][-2:] == [0.75, 0.75]
    assert line(payload, "share", 3)["y"][0][-2:] == [0.0, 0.05]
    assert [column[-1] for column in line(payload, "spent", 0)["y"]] == [7.5, 60.0]
    assert [column[-1] for column in line(payload, "spent", 3)["y"]] == [0.25, 8.0]
    assert payload["seconds"] == 128.0
    assert line(payload, "bandit")["t"] == [4.0 * (number + 1) for number in range(30)] + [128.0]
    assert payload["cells"][-1][6:] == [120.0, 128.0]


def test_in_a_long_run_more_pulls_are_recent() -> None:
    history = History()
    for number in range(2000):
        history.select(number, "image" if number < 1970 else "text")
    whole = view_of(history)
    assert line(whole.snapshot(10_000), "share", 1)["y"][0][-1] == 30 / 40
    # A point that comes later has the same share as in a snapshot.
    version = whole.version
    history.select(2000, "text")
    later = view_of(history)
    assert line(later.since(version), "share", 1)["y"] == [[31 / 40]]


def test_a_student_is_shown_as_it_was_before_its_first_round() -> None:
    history = History()
    history.add(worker_started=pb.WorkerStarted(worker="w1", info=pb.WorkerInfo(total_loss=4.0)))
    history.select(0, "image")
    history.report(0, "image", total_loss=3.0)
    total = line(view_of(history).snapshot(1000), "total")
    assert (total["x"], total["t"], total["y"]) == ([-1, 0], [0.0, 1.0], [[4.0, 3.0]])


def test_a_comparison_gets_only_measured_lines() -> None:
    history = History()
    history.select(0, "image")
    history.report(0, "image", total_loss=3.0)
    payload = view_of(history).snapshot(1000, "lines")
    assert {one["chart"] for one in payload["series"]} == {"bandit", "total"}
    assert (payload["cells"], payload["log"]) == ([], [])


def test_a_long_history_is_folded_and_rendered_quickly() -> None:
    history = History(arms=tuple(f"arm.{index}" for index in range(8)))
    for number in range(10_000):
        arm = history.arms[number % 8]
        history.select(number, arm)
        history.report(number, arm, total_loss=1.0 + number % 7)
    batch = history.batch()
    begun = time.process_time()
    view = RunView()
    view.apply(batch, received=0.0)
    folded = time.process_time()
    payload = view.snapshot(2000)
    rendered = time.process_time()
    assert folded - begun < 4.0, "20,000 events, with a tenfold margin"
    assert rendered - folded < 1.5
    assert len(json.dumps(payload)) < 1_000_000
