"""What is kept of rewards, against the whole history, in which nothing is forgotten but by definition."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit_server.bandit.estimators import Average, Discounted, Evidence, OwnWindow, Walk, Window
from bandit_server.bandit.policy.published.raw_ucb import GeometricWindows
from bandit_server.bandit.serialization import dump

ARMS = 3


class Told(NamedTuple):
    """A pull, and after how many further ones its reward comes; never, if negative."""

    arm: int
    value: float
    late: int


pulls = st.lists(
    st.builds(Told, st.integers(0, ARMS - 1), st.floats(-8, 8), st.integers(-1, 6)), min_size=1, max_size=60
)


def told(evidence: Evidence, made: list[Told]) -> list[tuple[int, Told]]:
    """Make the pulls; the rewards that have come, with their pulls' numbers, in the order in which they came."""
    came = []
    for now in range(len(made)):
        evidence.slide(1)
        for number in range(now + 1):
            if made[number].late == now - number:
                evidence.put(made[number].arm, now - number, made[number].value)
                came.append((number, made[number]))
    return came


def weighted(pairs: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean and sum of weights of (weight, value) pairs."""
    total = math.fsum(weight for weight, _ in pairs)
    return (math.fsum(weight * value for weight, value in pairs) / total if total else 0.0), total


def check(evidence: Evidence, arm: int, expected: tuple[float, float]) -> None:
    mean, count = evidence.estimates()
    assert count[arm] == pytest.approx(expected[1])
    if expected[1]:
        assert mean[arm] == pytest.approx(expected[0], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(made=pulls, size=st.integers(1, 20))
def test_a_window_holds_the_rewards_of_the_last_pulls_of_the_run(made: list[Told], size: int) -> None:
    evidence = Window(ARMS, size)
    came = told(evidence, made)
    for arm in range(ARMS):
        kept = [(1.0, t.value) for number, t in came if t.arm == arm and number >= len(made) - size]
        check(evidence, arm, weighted(kept))


@settings(max_examples=60, deadline=None)
@given(made=pulls, size=st.integers(1, 20))
def test_an_own_window_holds_the_last_rewards_of_each_arm(made: list[Told], size: int) -> None:
    evidence = OwnWindow(ARMS, size)
    came = told(evidence, made)
    for arm in range(ARMS):
        check(evidence, arm, weighted([(1.0, t.value) for _, t in came if t.arm == arm][-size:]))


@settings(max_examples=60, deadline=None)
@given(made=pulls, gamma=st.floats(0.5, 0.999))
def test_a_discounted_rewards_weight_falls_with_the_pulls_since_its_own(made: list[Told], gamma: float) -> None:
    evidence = Discounted(ARMS, gamma)
    came = told(evidence, made)
    for arm in range(ARMS):
        pairs = [(gamma ** (len(made) - 1 - number), t.value) for number, t in came if t.arm == arm]
        check(evidence, arm, weighted(pairs))


@settings(max_examples=60, deadline=None)
@given(made=pulls)
def test_an_average_is_that_of_all_rewards(made: list[Told]) -> None:
    evidence = Average(ARMS)
    came = told(evidence, made)
    for arm in range(ARMS):
        check(evidence, arm, weighted([(1.0, t.value) for _, t in came if t.arm == arm]))


def test_a_moving_average_gives_the_last_reward_its_weight() -> None:
    evidence = Average(1, least=0.25)
    for value in (4.0, 2.0, 0.0, 2.0, 10.0):
        evidence.put(0, 0, value)
    # The plain average of the first four is 2; then the gain stays at a quarter.
    mean, count = evidence.estimates()
    assert mean[0] == pytest.approx(2 + 0.25 * 8)
    assert count[0] == pytest.approx(1 / (0.75**2 / 4 + 0.25**2))


def test_a_walk_is_filtered_as_kalman_says() -> None:
    evidence = Walk(1, drift=0.5)
    evidence.slide(1)
    evidence.put(0, 0, 1.0)
    evidence.slide(2)
    # C = 1 + 2·0.5 = 2, gain 2/3.
    evidence.put(0, 0, 4.0)
    mean, count = evidence.estimates()
    assert (mean[0], count[0]) == (pytest.approx(3.0), pytest.approx(1.5))
    # Late by two pulls: seen through a noise of 2, C = 2/3, gain 1/4.
    evidence.put(0, 2, 7.0)
    mean, count = evidence.estimates()
    assert (mean[0], count[0]) == (pytest.approx(4.0), pytest.approx(2.0))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-8, 8), min_size=1, max_size=70))
def test_geometric_windows_are_full_and_at_most_half_a_window_old(values: list[float]) -> None:
    evidence = GeometricWindows(1)
    for number, value in enumerate(values):
        evidence.put(0, 0, value)
        for level in range(8):
            width, come = 2**level, number + 1
            assert evidence.full[0, level] == (come >= width)
            if come >= width:
                half = max(width // 2, 1)
                end = come - come % half
                assert evidence.sums[0, level] == pytest.approx(math.fsum(values[end - width : end]), abs=1e-9)


MADE: dict[str, Callable[[], Evidence]] = {
    "average": lambda: Average(ARMS),
    "moving": lambda: Average(ARMS, 0.1),
    "window": lambda: Window(ARMS, 10),
    "own": lambda: OwnWindow(ARMS, 10),
    "discounted": lambda: Discounted(ARMS, 0.9),
    "walk": lambda: Walk(ARMS, 0.1),
    "geometric": lambda: GeometricWindows(ARMS),
}


@pytest.mark.parametrize("name", MADE)
def test_rescaled_evidence_is_that_of_rescaled_rewards(name: str) -> None:
    rng = np.random.default_rng(0)
    made = [Told(int(rng.integers(ARMS)), float(rng.normal()), int(rng.integers(-1, 4))) for _ in range(80)]
    first, second = MADE[name](), MADE[name]()
    told(first, made)
    told(second, [t._replace(value=t.value / 8) for t in made])
    first.rescale(0.125)
    assert dump(first) == dump(second)


@pytest.mark.parametrize("name", MADE)
def test_evidence_does_not_grow(name: str) -> None:
    def size(pulls: int) -> int:
        evidence = MADE[name]()
        for number in range(pulls):
            evidence.slide(1)
            evidence.put(number % ARMS, 0, 0.5)
        return sum(np.size(value) for value in vars(evidence).values())

    assert size(20) == size(3000)
