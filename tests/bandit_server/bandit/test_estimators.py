"""Every estimator against its definition, computed from the whole history."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.bandit.estimators import Average, DiscountedMean, Estimator, PerArmWindow, RandomWalk, SlidingWindow
from bandit_server.bandit.policy.published.raw_ucb import GeometricWindows
from bandit_server.bandit.serialization import dump

ARMS = 3


class ScriptedPull(NamedTuple):
    """A pull, and the number of further pulls before its reward arrives; a negative number means never."""

    arm: int
    value: float
    delay: int


pulls = st.lists(
    st.builds(ScriptedPull, st.integers(0, ARMS - 1), st.floats(-8, 8), st.integers(-1, 6)), min_size=1, max_size=60
)


def play(estimator: Estimator, made: list[ScriptedPull]) -> list[tuple[int, ScriptedPull]]:
    """Make the pulls; return the rewards with the numbers of their pulls, in the order of arrival."""
    arrived = []
    for now in range(len(made)):
        estimator.advance(1)
        for number in range(now + 1):
            if made[number].delay == now - number:
                estimator.add(made[number].arm, now - number, made[number].value)
                arrived.append((number, made[number]))
    return arrived


def weighted(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return mean and sum of weights of (weight, value) pairs."""
    total = math.fsum(weight for weight, _ in pairs)
    return (math.fsum(weight * value for weight, value in pairs) / total if total else 0.0), total


def check(estimator: Estimator, arm: int, expected: tuple[float, float]) -> None:
    mean, count = estimator.estimates()
    assert count[arm] == pytest.approx(expected[1])
    if expected[1]:
        assert mean[arm] == pytest.approx(expected[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(made=pulls, size=st.integers(1, 20))
def test_a_window_holds_the_rewards_of_the_last_pulls_of_the_run(made: list[ScriptedPull], size: int) -> None:
    estimator = SlidingWindow(ARMS, size)
    arrived = play(estimator, made)
    for arm in range(ARMS):
        expected = [(1.0, t.value) for number, t in arrived if t.arm == arm and number >= len(made) - size]
        check(estimator, arm, weighted(expected))


@settings(max_examples=60, deadline=None)
@given(made=pulls, size=st.integers(1, 20))
def test_an_own_window_holds_the_last_rewards_of_each_arm(made: list[ScriptedPull], size: int) -> None:
    estimator = PerArmWindow(ARMS, size)
    arrived = play(estimator, made)
    for arm in range(ARMS):
        check(estimator, arm, weighted([(1.0, t.value) for _, t in arrived if t.arm == arm][-size:]))


@settings(max_examples=60, deadline=None)
@given(made=pulls, gamma=st.floats(0.5, 0.999))
def test_a_discounted_rewards_weight_falls_with_the_pulls_since_its_own(made: list[ScriptedPull], gamma: float) -> None:
    estimator = DiscountedMean(ARMS, gamma)
    arrived = play(estimator, made)
    for arm in range(ARMS):
        pairs = [(gamma ** (len(made) - 1 - number), t.value) for number, t in arrived if t.arm == arm]
        check(estimator, arm, weighted(pairs))


@settings(max_examples=60, deadline=None)
@given(made=pulls)
def test_an_average_is_that_of_all_rewards(made: list[ScriptedPull]) -> None:
    estimator = Average(ARMS)
    arrived = play(estimator, made)
    for arm in range(ARMS):
        check(estimator, arm, weighted([(1.0, t.value) for _, t in arrived if t.arm == arm]))


def test_a_moving_average_gives_the_last_reward_its_weight() -> None:
    estimator = Average(1, min_gain=0.25)
    for value in (4.0, 2.0, 0.0, 2.0, 10.0):
        estimator.add(0, 0, value)
    # The plain average of the first four is 2; then the gain stays at a quarter.
    mean, count = estimator.estimates()
    assert mean[0] == pytest.approx(2 + 0.25 * 8)
    assert count[0] == pytest.approx(1 / (0.75**2 / 4 + 0.25**2))


def test_a_walk_is_filtered_as_kalman_says() -> None:
    estimator = RandomWalk(1, drift=0.5)
    estimator.advance(1)
    estimator.add(0, 0, 1.0)
    estimator.advance(2)
    # C = 1 + 2·0.5 = 2, gain 2/3.
    estimator.add(0, 0, 4.0)
    mean, count = estimator.estimates()
    assert (mean[0], count[0]) == (pytest.approx(3.0), pytest.approx(1.5))
    # Late by two pulls: seen through a noise of 2, C = 2/3, gain 1/4.
    estimator.add(0, 2, 7.0)
    mean, count = estimator.estimates()
    assert (mean[0], count[0]) == (pytest.approx(4.0), pytest.approx(2.0))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-8, 8), min_size=1, max_size=70))
def test_geometric_windows_are_full_and_at_most_half_a_window_old(values: list[float]) -> None:
    estimator = GeometricWindows(1)
    for number, value in enumerate(values):
        estimator.add(0, 0, value)
        for level in range(8):
            width, come = 2**level, number + 1
            assert estimator.full[0, level] == (come >= width)
            if come >= width:
                half = max(width // 2, 1)
                end = come - come % half
                assert estimator.sums[0, level] == pytest.approx(math.fsum(values[end - width : end]), abs=1e-9)


MADE: dict[str, Callable[[], Estimator]] = {
    "average": lambda: Average(ARMS),
    "moving": lambda: Average(ARMS, 0.1),
    "window": lambda: SlidingWindow(ARMS, 10),
    "own": lambda: PerArmWindow(ARMS, 10),
    "discounted": lambda: DiscountedMean(ARMS, 0.9),
    "walk": lambda: RandomWalk(ARMS, 0.1),
    "geometric": lambda: GeometricWindows(ARMS),
}


@pytest.mark.parametrize("name", MADE)
def test_rescaled_evidence_is_that_of_rescaled_rewards(name: str) -> None:
    rng = np.random.default_rng(0)
    made = [ScriptedPull(int(rng.integers(ARMS)), float(rng.normal()), int(rng.integers(-1, 4))) for _ in range(80)]
    first, second = MADE[name](), MADE[name]()
    play(first, made)
    play(second, [t._replace(value=t.value / 8) for t in made])
    first.rescale(0.125)
    assert dump(first) == dump(second)


@pytest.mark.parametrize("name", MADE)
def test_evidence_does_not_grow(name: str) -> None:
    def size(pulls: int) -> int:
        estimator = MADE[name]()
        for number in range(pulls):
            estimator.advance(1)
            estimator.add(number % ARMS, 0, 0.5)
        return sum(np.size(value) for value in vars(estimator).values())

    assert size(20) == size(3000)
