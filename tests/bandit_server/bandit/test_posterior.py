"""The probability that an arm is the best."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bandit_server.bandit.posterior import gaussian, p_best


def test_p_best_agrees_with_monte_carlo_within_one_percent() -> None:
    rng = np.random.default_rng(0)
    for arms, spread in itertools.product((2, 3, 7, 64), (0.0, 0.1, 1.0)):
        mean, sd = spread * rng.normal(size=arms), np.exp(rng.uniform(-4, 1, arms))
        drawn = mean + sd * rng.standard_normal((40_000, arms))
        sampled = np.bincount(drawn.argmax(axis=1), minlength=arms) / len(drawn)
        assert np.abs(p_best(mean, sd) - sampled).max() < 0.01


def test_p_best_of_two_arms_is_the_normal_distribution_of_their_difference() -> None:
    mean, sd = np.array([0.3, 0.0]), np.array([0.4, 0.3])
    exact = 0.5 * (1 + math.erf(0.3 / math.hypot(0.4, 0.3) / math.sqrt(2)))
    assert p_best(mean, sd) == pytest.approx([exact, 1 - exact], abs=1e-3)


@pytest.mark.parametrize("arms", [1, 5, 64])
def test_p_best_of_equal_arms_is_shared_equally(arms: int) -> None:
    assert p_best(np.zeros(arms), np.ones(arms)) == pytest.approx(np.full(arms, 1 / arms))


def test_p_best_is_certain_where_arms_lie_far_apart() -> None:
    assert p_best(np.array([0.0, 1.0, 0.5]), np.full(3, 1e-9)) == pytest.approx([0, 1, 0], abs=1e-9)


def test_beliefs_are_in_units_of_reward() -> None:
    beliefs = gaussian(np.array([1.0, 2.0]), np.array([0.5, 0.25]), np.array([3.0, 4.0]), unit=2.0**-10)
    assert [(b.mean, b.sd, b.effective_count) for b in beliefs] == [(2.0**-10, 2.0**-11, 3.0), (2.0**-9, 2.0**-12, 4.0)]
    huge = gaussian(np.array([1e10]), np.array([1e10]), np.array([1.0]), unit=2.0**1023)
    assert math.isfinite(huge[0].mean)
    assert math.isfinite(huge[0].sd)
