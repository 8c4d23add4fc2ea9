"""The noise's scale, learned online."""

from __future__ import annotations

import math
import random

import pytest

from bandit_server.bandit.noise import Noise


def test_it_is_the_mean_square_successive_difference_begun_with_the_spread_between_arms() -> None:
    noise = Noise()
    for arm, reward in ((0, 0.5), (1, 0.6)):
        noise.update(arm, "w", reward)
    assert noise.sigma**2 == pytest.approx(0.0025)
    noise.update(0, "w", 0.7)
    assert noise.sigma**2 == pytest.approx((0.98 * 0.0025 + 0.02) / 1.98)
    noise.update(0, "w", 0.6)
    assert noise.sigma**2 == pytest.approx((0.98 * (0.98 * 0.0025 + 0.02) + 0.005) / (0.98 * 1.98 + 1))


def test_arms_that_lie_far_apart_and_rot_do_not_count_as_noise() -> None:
    rng, noise, pulls = random.Random(1), Noise(), [0, 0, 0]
    for _ in range(600):
        arm = rng.randrange(3)
        noise.update(arm, "w", 10.0 * arm + 3 * math.exp(-pulls[arm] / 60) + rng.gauss(0, 0.1))
        pulls[arm] += 1
    assert noise.sigma == pytest.approx(0.1, rel=0.25)


def test_noise_that_shrinks_is_followed() -> None:
    rng, noise = random.Random(2), Noise()
    for number in range(800):
        noise.update(number % 3, "w", rng.gauss(1, 0.1 if number < 400 else 0.01))
    assert noise.sigma == pytest.approx(0.01, rel=0.3)


def test_the_difference_between_two_workers_is_not_noise() -> None:
    rng, noise = random.Random(3), Noise()
    for number in range(400):
        noise.update(0, str(number % 2), 5.0 * (number % 2) + rng.gauss(0, 0.1))
    assert noise.sigma == pytest.approx(0.1, rel=0.3)


def test_without_any_spread_it_is_tiny_but_above_zero() -> None:
    noise = Noise()
    assert 0 < noise.sigma < 1e-100
    for _ in range(9):
        noise.update(0, "w", 3.0)
    assert 0 < noise.sigma < 1e-10
