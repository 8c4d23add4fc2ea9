"""The filter bank against its own equations, one hypothesis and one number at a time."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from bandit_server.bandit.filter_bank import HYPOTHESES, Q_OWN, Q_TIME, RHO, FilterBank
from bandit_server.bandit.scaling import RewardScaler

MEMORY = 0.95


def random_rewards(count: int, seed: int, arms: int = 3) -> list[tuple[int, int, float]]:
    """Return (pull number, arm, reward), some pulls without a reward."""
    noise = random.Random(seed)
    pulls = [(number, noise.randrange(arms)) for number in range(count) if noise.random() < 0.8]
    return [(number, arm, arm * math.exp(-number / 30) + noise.gauss(0, 0.2)) for number, arm in pulls]


def filtered(
    rewards: list[tuple[int, int, float]], own: float, time: float, shared: float
) -> tuple[dict[int, tuple[float, float, int]], float, float, float]:
    """Return mean, variance and last pull of each arm, and S, D and n, by the equations in filter_bank.py."""
    arms: dict[int, tuple[float, float, int]] = {}
    squares = logs = steps = 0.0
    for number, arm, reward in rewards:
        if arm not in arms:
            arms[arm] = (reward, 1.0, number)
            continue
        mean, variance, last = arms[arm]
        gap = number - last
        change = shared**gap
        prior = change**2 * variance + own + time * gap
        spread = prior + 1
        error = reward - change * mean
        arms[arm] = (change * mean + prior / spread * error, prior / spread, number)
        squares = MEMORY * squares + error**2 / spread
        logs = MEMORY * logs + math.log(spread)
        steps = MEMORY * steps + 1
    return arms, squares, logs, steps


def fitted(rewards: list[tuple[int, int, float]], arms: int = 3) -> FilterBank:
    filters = FilterBank(arms, MEMORY)
    for number, arm, reward in rewards:
        filters.update(number, arm, reward)
    return filters


def test_every_filter_follows_its_equations() -> None:
    rewards = random_rewards(80, seed=1)
    filters = fitted(rewards)
    now = 85
    evidence, noise = [], []
    for at, hypothesis in enumerate(itertools.product(Q_OWN, Q_TIME, RHO)):
        own, time, shared = hypothesis
        arms, squares, logs, steps = filtered(rewards, own, time, shared)
        mean, variance = filters.predict(now, at)
        for arm, (level, spread, last) in arms.items():
            gap = now - last
            assert mean[arm] == pytest.approx(shared**gap * level)
            assert variance[arm] == pytest.approx(shared ** (2 * gap) * spread + own + time * gap)
        evidence.append(-(logs + steps * math.log(squares)) / 2)
        noise.append(squares / steps)
    weights = np.exp(np.array(evidence) - max(evidence))
    assert filters.weights == pytest.approx(weights / weights.sum())
    assert [filters.noise_variance(at) for at in range(HYPOTHESES)] == pytest.approx(noise)


def test_the_hypothesis_that_made_the_rewards_wins() -> None:
    noise = random.Random(0)
    for own, shared in ((0.0, 1.0), (0.3, 1.0), (0.0, 0.96)):
        filters, level = FilterBank(1, 0.99), 20.0
        for number in range(300):
            level = shared * level + noise.gauss(0, math.sqrt(own))
            filters.update(number, 0, level + noise.gauss(0, 1))
            if shared < 1 and level < 1:
                break
        weights = filters.weights
        of = [*itertools.product(Q_OWN, Q_TIME, RHO)]
        if shared < 1:
            assert sum(w for w, h in zip(weights, of, strict=True) if h[2] == shared) > 0.5
        else:
            # Change by own pulls and change by time are one where a single arm is pulled all the time.
            drift = sum(w * (h[0] + h[1]) for w, h in zip(weights, of, strict=True))
            assert (drift > 0.1) == (own > 0.1)


def test_hypotheses_are_drawn_by_their_weights() -> None:
    filters = fitted(random_rewards(60, seed=6))
    expected = filters.weights
    drawn = filters.draw((np.arange(20_000) + 0.5) / 20_000)
    assert np.bincount(drawn, minlength=HYPOTHESES) / 20_000 == pytest.approx(expected, abs=1e-4)


def test_an_average_over_hypotheses_is_their_mixture() -> None:
    filters = fitted(random_rewards(60, seed=2))
    mean, sd, count = filters.average(70)
    weights, noise = filters.weights, [filters.noise_variance(at) for at in range(HYPOTHESES)]
    predicted = [np.array(filters.predict(70, at)) for at in range(HYPOTHESES)]
    expected = sum(w * m for w, (m, _) in zip(weights, predicted, strict=True))
    second = sum(w * (v * n + m**2) for w, n, (m, v) in zip(weights, noise, predicted, strict=True))
    assert mean == pytest.approx(expected)
    assert sd**2 == pytest.approx(second - expected**2)
    assert ((count > 0) & (count <= filters.count)).all()


def test_an_arm_that_was_not_seen_lately_is_less_certain() -> None:
    filters = FilterBank(2, MEMORY)
    noise = random.Random(3)
    for number in range(200):
        filters.update(number, int(number > 20), noise.gauss(0.5, 0.1))
    _, sd, count = filters.average(200)
    assert sd[0] > sd[1]
    assert count[0] < count[1]


@pytest.mark.parametrize("rewards", [[], [(0, 0, 1.0)], random_rewards(5, seed=2), random_rewards(90, seed=2)], ids=len)
def test_predictions_ahead_equal_predictions_one_by_one(rewards: list[tuple[int, int, float]]) -> None:
    filters = fitted(rewards)
    hypotheses = np.array([*range(HYPOTHESES), 0, 0])
    means, variances, noises = filters.predict_ahead(95, hypotheses)
    for ahead, hypothesis in enumerate(hypotheses.tolist()):
        mean, variance = filters.predict(95 + ahead, hypothesis)
        assert means[:, ahead] == pytest.approx(mean)
        assert variances[:, ahead] == pytest.approx(variance)
        assert noises[ahead] == pytest.approx(filters.noise_variance(hypothesis))


def test_an_arm_never_seen_is_like_the_others_and_as_uncertain_as_one_reward_leaves_it() -> None:
    filters = fitted([(0, 0, 1.0), (1, 1, 3.0), (2, 0, 1.0), (3, 1, 3.0)])
    mean, variance = filters.predict(4, 0)
    assert (mean[2], variance[2]) == (2.0, 1.0)


def test_a_late_reward_counts_less_than_a_punctual_one() -> None:
    punctual, late = fitted(random_rewards(60, seed=4, arms=1)), fitted(random_rewards(60, seed=4, arms=1))
    punctual.update(61, 0, 5.0)
    late.update(11, 0, 5.0)
    drifting = [*itertools.product(Q_OWN, Q_TIME, RHO)].index((0.0, 0.1, 1.0))
    assert late.predict(62, drifting)[0][0] < punctual.predict(62, drifting)[0][0]


def test_the_size_of_a_filter_bank_does_not_grow() -> None:
    few, many = fitted(random_rewards(50, seed=5)), fitted(random_rewards(500, seed=5))
    assert {k: np.size(v) for k, v in vars(few).items()} == {k: np.size(v) for k, v in vars(many).items()}


def test_scaling_leaves_a_single_workers_rewards_as_they_are_up_to_a_power_of_two() -> None:
    scaler = RewardScaler()
    values = [scaler.scale("w", reward) for reward in (0.3, -0.02, 0.0, 0.7)]
    assert [value * scaler.unit for value, _ in values] == [0.3, -0.02, 0.0, 0.7]
    assert {shrink for _, shrink in values} == {1.0}


def test_scaling_brings_a_late_joiner_to_the_veterans_scale() -> None:
    scaler = RewardScaler()
    for _ in range(50):
        scaler.scale("veteran", 0.01)
    late = [scaler.scale("late", 1.0)[0] for _ in range(50)]
    assert late[-1] * scaler.unit == pytest.approx(0.01)


def test_scaling_shrinks_what_was_before_when_a_reward_is_of_another_magnitude() -> None:
    scaler = RewardScaler()
    first, _ = scaler.scale("w", 1e-300)
    second, shrink = scaler.scale("w", 1e300)
    assert abs(second) <= 1
    assert first * shrink < 1e-200
