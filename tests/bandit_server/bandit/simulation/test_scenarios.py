"""The scenarios: what they promise, and that the oracle's gain is the most that any player can get."""

from __future__ import annotations

import copy
import itertools
import math
from statistics import pstdev

import numpy as np
import pytest

from bandit_server.bandit.simulation.environments import Rested, Restless, Scenario
from bandit_server.bandit.simulation.scenarios import SCENARIOS, SEGMENTS, SHORTEST, make

FALLING = ["rotting", "rotting-noisy", "rotting-fast", "8-in-flight", "heavy-tail"]


def most(scenario: Scenario) -> float:
    """The most that can be gained from here on, all sequences of arms tried."""
    if scenario.t == scenario.horizon:
        return scenario.gained
    gains = []
    for arm in range(scenario.arms):
        tried = copy.deepcopy(scenario)
        tried.pull(arm)
        gains.append(most(tried))
    return max(gains)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize(("horizon", "arms", "seed"), [(7, 2, 0), (7, 2, 1), (5, 3, 2)])
def test_the_oracle_gains_the_most_that_any_sequence_of_arms_can(name: str, horizon: int, arms: int, seed: int) -> None:
    scenario = make(name, horizon, arms, seed)
    assert scenario.best == pytest.approx(most(scenario))


def allocations(curves: np.ndarray, horizon: int) -> float:
    """The most that the curves can bring, all divisions of the pulls tried."""
    sums = [np.concatenate([[0.0], np.cumsum(curve)]) for curve in curves]
    return max(
        sum(float(sums[arm][pulls]) for arm, pulls in enumerate(division))
        for division in itertools.product(range(horizon + 1), repeat=len(curves))
        if sum(division) == horizon
    )


@pytest.mark.parametrize("name", ["rising", "coupled"])
@pytest.mark.parametrize("seed", range(4))
def test_with_a_slow_arm_the_oracle_gains_the_most_of_all_divisions(name: str, seed: int) -> None:
    scenario = make(name, 24, 3, seed)
    assert isinstance(scenario, Rested)
    assert scenario.rising is not None
    assert scenario.best == pytest.approx(allocations(scenario.curves, 24))


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_name_a_size_and_a_seed_are_one_drawing(name: str) -> None:
    def pulled(scenario: Scenario) -> list[float]:
        return [scenario.pull(t % scenario.arms) for t in range(scenario.horizon)]

    first = pulled(make(name, 60, 3, 4))
    assert pulled(make(name, 60, 3, 4)) == first
    assert pulled(make(name, 60, 3, 5)) != first
    assert pulled(make(name, 61, 3, 4))[:60] != first


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_noise_belongs_to_the_pull_and_not_to_the_arm(name: str) -> None:
    first, second = make(name, 80, 3, 1), make(name, 80, 3, 1)
    for t in range(80):
        noise = []
        for scenario, arm in ((first, t % 3), (second, t * t % 3)):
            mean, worker = scenario.mean(arm), scenario.worker(t)
            units = 100.0 if worker == "late" else 1.0
            share = mean if name == "common-trend" else 1.0
            noise.append((scenario.pull(arm) / units - mean) / share)
        assert noise[0] == pytest.approx(noise[1], abs=1e-9)


@pytest.mark.parametrize(
    ("name", "sd"),
    [("piecewise", 0.2), ("rotting", 0.1), ("rotting-noisy", 0.3), ("rotting-fast", 0.1), ("abrupt+drift", 0.2),
     ("8-in-flight", 0.1), ("rising", 0.1), ("heavy-tail", 0.1)],
)  # fmt: skip
def test_the_noise_is_as_large_as_said(name: str, sd: float) -> None:
    scenario = make(name, 8000, 3, 0)
    noise = [-scenario.mean(0) + scenario.pull(0) for _ in range(8000)]
    # Student's t with 3 degrees of freedom has no fourth moment: its spread is found slowly.
    assert pstdev(noise) == pytest.approx(sd, rel=0.2 if name == "heavy-tail" else 0.05)


@pytest.mark.parametrize("horizon", [200, 500, 2000])
@pytest.mark.parametrize("seed", range(8))
def test_a_segment_lasts_at_least_its_share_of_the_pulls(horizon: int, seed: int) -> None:
    scenario = make("piecewise", horizon, 3, seed)
    assert isinstance(scenario, Restless)
    means = []
    for _ in range(horizon):
        means.append(tuple(scenario.mean(arm) for arm in range(3)))
        scenario.pull(0)
    lasted = [len(list(group)) for _, group in itertools.groupby(means)]
    assert len(lasted) == SEGMENTS
    assert min(lasted) >= math.floor(SHORTEST * horizon)
    assert all(0 <= mean <= 1 for mean in itertools.chain(*means))


@pytest.mark.parametrize("name", FALLING)
def test_a_rotting_arm_pays_less_with_each_of_its_own_pulls_and_only_then(name: str) -> None:
    scenario = make(name, 100, 3, 0)
    others = [scenario.mean(1), scenario.mean(2)]
    paid = []
    for _ in range(50):
        paid.append(scenario.mean(0))
        scenario.pull(0)
    assert paid == sorted(paid, reverse=True)
    assert paid[0] > paid[-1]
    assert [scenario.mean(1), scenario.mean(2)] == others


def test_a_common_trend_takes_more_than_the_arms_differ() -> None:
    scenario = make("common-trend", 500, 7, 0)
    at_first = [scenario.mean(arm) for arm in range(7)]
    for _ in range(450):
        scenario.pull(0)
    untouched = [scenario.mean(arm) for arm in range(1, 7)]
    assert max(untouched) < 0.2 * min(at_first)


def test_a_rising_arm_is_the_worst_then_the_best_then_the_worst_again() -> None:
    for seed in range(10):
        scenario = make("rising", 500, 3, seed)
        assert isinstance(scenario, Rested)
        assert scenario.rising is not None
        curve, others = scenario.curves[scenario.rising], np.delete(scenario.curves, scenario.rising, axis=0)
        assert curve[0] < others[:, 0].min()
        assert curve.max() > others[:, 0].max()
        assert curve[-1] < 0.3 * curve.max()


def test_upstream_pulls_first_do_harm_and_then_pay_more_than_they_cost() -> None:
    for seed in range(10):
        scenario = make("coupled", 500, 3, seed)
        assert isinstance(scenario, Rested)
        assert scenario.rising is not None
        upstream = scenario.curves[scenario.rising]
        downstream = np.delete(scenario.curves, scenario.rising, axis=0)
        assert upstream[0] < 0 < upstream.sum()
        assert (downstream > 0).all()
        assert (np.diff(downstream, axis=1) <= 0).all()


def test_a_late_worker_has_a_student_and_units_of_its_own() -> None:
    scenario = make("two-workers-one-late", 100, 3, 0)
    workers = [scenario.worker(t) for t in range(100)]
    assert set(workers[:50]) == {"first"}
    assert workers[50:] == ["first", "late"] * 25
    fresh = scenario.mean(0)
    for _ in range(51):
        scenario.pull(0)
    assert scenario.mean(0) == fresh, "untrained, whatever the first worker did"
    assert abs(scenario.pull(0)) > 10 * fresh
    assert scenario.mean(0) < fresh, "and the first worker's is as it was"


@pytest.mark.parametrize(("horizon", "arms", "seed"), [(0, 3, 0), (10, 1, 0), (10, 3, -1)])
def test_a_size_that_cannot_be_is_refused(horizon: int, arms: int, seed: int) -> None:
    with pytest.raises(ValueError, match="expected at least 1 pull, 2 arms and seed 0"):
        make("rotting", horizon, arms, seed)


def test_an_unknown_scenario_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="there is no scenario 'mine'; there are piecewise, rotting"):
        make("mine", 10, 3, 0)
