"""The index of every published policy, computed by hand on a small case.

Pulls 0 to 3: arm 0 pays 1/2, arm 1 pays 3/4, arm 0 pays 1, arm 0 pays 3/4. So the variance of the noise is the mean of
(spread of the first two, 1/64, and two successive differences, of 1/2 and −1/4), each weighted 0.98^age.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bandit_server.bandit.policy import build
from bandit_server.bandit.policy.index_policy import IndexPolicy

PULLS = [(0, 0.5), (1, 0.75), (0, 1.0), (0, 0.75)]
SIGMA = math.sqrt((0.98**2 / 64 + 0.98 / 8 + 1 / 32) / (0.98**2 + 0.98 + 1))
NONE = np.zeros(2)


def learned(name: str, **options: float) -> IndexPolicy:
    policy: Any = build(name, options, 2)
    for number, (arm, reward) in enumerate(PULLS):
        policy.pulled(number, arm)
        policy.rewarded(number, arm, "w", reward)
    assert isinstance(policy, IndexPolicy)
    assert policy.sigma == pytest.approx(SIGMA)
    return policy


def scores(policy: IndexPolicy, in_flight: tuple[float, float] = (0, 0)) -> Any:
    return policy.index_function(np.random.default_rng(1))(np.array(in_flight, dtype=float))


def normals(count: int) -> Any:
    return np.random.default_rng(1).standard_normal(count)


# Means and counts of the two arms, for every policy that draws N(mean, σ²/count).
GAMMA = 0.5
DISCOUNTED_0 = (0.5 / 8 + 1.0 / 2 + 0.75) / (1 / 8 + 1 / 2 + 1)
# q = 1/2. Arm 0: C = 1, after two pulls 2, gain 2/3, C = 2/3, after one 7/6, gain 7/13. Arm 1: C = 1, after two 2.
KALMAN_0 = 0.5 + 0.5 * 2 / 3 + 7 / 13 * (0.75 - (0.5 + 0.5 * 2 / 3))


@pytest.mark.parametrize(
    ("name", "options", "means", "counts"),
    [
        ("thompson", {}, (0.75, 0.75), (3, 1)),
        ("sliding_window_ts", {}, (0.75, 0.75), (3, 1)),
        ("sliding_window_ts", {"window": 3}, (0.875, 0.75), (2, 1)),
        ("discounted_ts", {"gamma": GAMMA}, (DISCOUNTED_0, 0.75), (1.625, 0.25)),
        ("kalman_ts", {"drift": 0.5}, (KALMAN_0, 0.75), (13 / 7, 1 / 2)),
    ],
)
def test_a_thompson_policy_draws_each_arms_mean(
    name: str, options: dict[str, float], means: tuple[float, float], counts: tuple[float, float]
) -> None:
    policy = learned(name, **options)
    assert scores(policy) == pytest.approx(np.array(means) + SIGMA / np.sqrt(counts) * normals(2))
    flying = np.add(counts, (0, 3))
    assert scores(policy, (0, 3)) == pytest.approx(np.array(means) + SIGMA / np.sqrt(flying) * normals(2))
    beliefs = policy.posterior()
    assert [belief.mean for belief in beliefs] == pytest.approx(means)
    assert [belief.sd for belief in beliefs] == pytest.approx(SIGMA / np.sqrt(counts))
    assert [belief.effective_count for belief in beliefs] == pytest.approx(counts)


@pytest.mark.parametrize(("optimism", "f"), [(0.0, np.minimum), (0.5, lambda a, b: (a + b) / 2), (1.0, np.maximum)])
def test_fdsw_draws_twice_and_aggregates(optimism: float, f: Any) -> None:
    policy = learned("fdsw_ts", gamma=GAMMA, window=2, optimism=optimism)
    first, second = np.split(normals(4), 2)
    discounted = np.array([DISCOUNTED_0, 0.75]) + SIGMA / np.sqrt([1.625, 0.25]) * first
    own = np.array([0.875, 0.75]) + SIGMA / np.sqrt([2, 1]) * second
    assert scores(policy) == pytest.approx(f(discounted, own))


def test_sw_ucb_adds_its_bound() -> None:
    policy = learned("sw_ucb", window=3, xi=0.6)
    bound = 2 * SIGMA * np.sqrt(0.6 * math.log(3) / np.array([2, 1]))
    assert scores(policy) == pytest.approx(np.array([0.875, 0.75]) + bound)
    wide = learned("sw_ucb", window=100, xi=0.6)
    bound = 2 * SIGMA * np.sqrt(0.6 * math.log(4) / np.array([3, 1 + 2]))
    assert scores(wide, (0, 2)) == pytest.approx(np.array([0.75, 0.75]) + bound)


def test_d_ucb_adds_its_bound() -> None:
    policy = learned("d_ucb", gamma=GAMMA, xi=0.6)
    bound = 2 * SIGMA * np.sqrt(0.6 * math.log(1.875) / np.array([1.625, 0.25]))
    assert scores(policy) == pytest.approx(np.array([DISCOUNTED_0, 0.75]) + bound)


def test_raw_ucb_takes_the_window_that_promises_least() -> None:
    policy = learned("raw_ucb", alpha=1.4)
    wide = SIGMA * math.sqrt(2 * 1.4 * math.log(4))
    # Arm 0's windows: its last reward, and its last two.
    assert scores(policy) == pytest.approx([min(0.75 + wide, 0.875 + wide / math.sqrt(2)), 0.75 + wide])
    rotten = learned("raw_ucb", alpha=0.0)
    assert scores(rotten) == pytest.approx([0.75, 0.75])


def test_epsilon_greedy_scores_moving_averages_or_nothing_at_all() -> None:
    greedy = learned("epsilon_greedy", epsilon=0.0, alpha=0.5)
    assert scores(greedy) == pytest.approx([0.75, 0.75])
    moving = learned("epsilon_greedy", epsilon=0.0, alpha=0.9)
    assert scores(moving) == pytest.approx([0.1 * (0.05 + 0.9) + 0.9 * 0.75, 0.75])
    assert set(scores(learned("epsilon_greedy", epsilon=1.0))).isdisjoint({0.75})


@pytest.mark.parametrize("name", ["sw_ucb", "d_ucb", "raw_ucb"])
def test_choices_ahead_spread_as_if_the_pulls_were_in_flight(name: str) -> None:
    policy = learned(name)
    ahead = policy.choose(in_flight=[], active=range(2), rng=np.random.default_rng(0), count=12)
    one_by_one: list[int] = []
    for _ in range(12):
        one_by_one += policy.choose(in_flight=one_by_one, active=range(2), rng=np.random.default_rng(0))
    assert ahead == one_by_one
